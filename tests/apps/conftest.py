"""What the tests of real programs share: modes and compiled programs."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.apps.harness import PROGRAMS

COMPILE_S = 120

MODES = ("left_running", "restored")


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    """What happens to the program: a snapshot only, or killed and brought back."""
    return str(request.param)


@pytest.fixture(scope="session")
def compile_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that compiles one of the programs once and returns where it is."""
    folder = tmp_path_factory.mktemp("compiled")
    done: set[str] = set()

    def compile_one(name: str, *command: str, product: str) -> Path:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed; scripts/test installs it")
        target = folder / product
        if product not in done:
            words = [w.format(source=PROGRAMS / name, target=target) for w in command]
            env = {**os.environ, "GOCACHE": str(folder / "go-cache"), "GO111MODULE": "off"}
            subprocess.run(words, cwd=folder, env=env, check=True, timeout=COMPILE_S)
            done.add(product)
        return target

    return compile_one

"""What the tests of real programs share: folders, compiled programs, marks."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.apps.harness import PROGRAMS

COMPILE_S = 120

MODES = ("left_running", "restored")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder, so that `-m "not apps"` leaves it out."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.apps)


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


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

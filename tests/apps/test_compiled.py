"""Java, Go and C programs go on where they were, by their own output."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.apps.harness import App
from tests.apps.test_interpreters import run_through, ticks

pytestmark = pytest.mark.apps

Compile = Callable[..., Path]


def cpu_flags() -> set[str]:
    """Return what /proc/cpuinfo lists as flags."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def test_java(tmp_path: Path, mode: str, compile_program: Compile) -> None:
    """Some thirty threads: compiled code, garbage collection, timers."""
    classes = compile_program(
        "Counting.java", "javac", "-d", "{target}", "{source}", product="classes"
    )
    argv = ["java", "-Xmx256m", "-cp", str(classes), "Counting"]
    with App(tmp_path, argv) as app:
        at_snapshot = run_through(app, mode)
        assert app.lines()[-1] == "DONE"
        found = ticks(app.lines())
        assert int(found[-1][1]) > int(found[at_snapshot - 1][1])


def test_go(tmp_path: Path, mode: str, compile_program: Compile) -> None:
    """Goroutines, channels, signal-driven preemption, the runtime's timers and collector."""
    binary = compile_program(
        "counting.go", "go", "build", "-o", "{target}", "{source}", product="go"
    )
    with App(tmp_path, [binary]) as app:
        run_through(app, mode)
        assert app.lines()[-1] == "DONE"
        ticks(app.lines())


@pytest.mark.parametrize(("feature", "registers"), [("avx512f", "zmm"), ("avx2", "ymm")])
def test_vector_registers(
    tmp_path: Path, mode: str, compile_program: Compile, feature: str, registers: str
) -> None:
    """A count that lives in vector registers only."""
    flags = f"-O2 -pthread -Wall -Wextra -Werror -m{feature}".split()
    binary = compile_program(
        "vector_registers.c", "gcc", *flags, "-o", "{target}", "{source}", product=registers
    )
    if feature not in cpu_flags():
        pytest.skip(f"not run: cpu {feature}")
    with App(tmp_path, [binary]) as app:
        run_through(app, mode)
        assert app.lines()[-1].startswith(f"DONE {registers} ")
        ticks(app.lines())

"""One process goes through fifty snapshots and restores, and is none the worse for it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.apps.harness import App

pytestmark = pytest.mark.apps

ROUNDS = 50
# The stack and the C library's buffers may touch a page more in one round than in another.
MEMORY_SLACK_KIB = 64


class Area(NamedTuple):
    """One line of /proc/PID/maps."""

    start: int
    end: int
    kind: tuple[str, str, str, str]
    offset: int


class Size(NamedTuple):
    """What must not grow."""

    areas: int
    descriptors: int
    virtual_kib: int
    anonymous_kib: int


def parse_area(line: str) -> Area:
    """Parse one line of /proc/PID/maps."""
    span, permissions, offset, device, inode, *name = line.split(maxsplit=5)
    start, end = (int(a, 16) for a in span.split("-"))
    kind = (permissions, device, inode, name[0] if name else "")
    return Area(start, end, kind, int(offset, 16))


def continues(first: Area, second: Area) -> bool:
    """Return whether two areas would be one if the kernel had merged them."""
    if first.end != second.start or first.kind != second.kind:
        return False
    is_anonymous = first.kind[2] == "0"
    return is_anonymous or first.offset + first.end - first.start == second.offset


def merged(areas: list[Area]) -> int:
    """Count areas, taking neighbours that /proc cannot tell apart for one."""
    count = 0
    previous: Area | None = None
    for area in areas:
        count += previous is None or not continues(previous, area)
        previous = area
    return count


def size_of(pid: int) -> Size:
    """Measure a process."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    pairs = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    status = {key: value.split() for key, value in pairs}
    return Size(
        merged([parse_area(line) for line in maps]),
        len(os.listdir(f"/proc/{pid}/fd")),
        int(status["VmSize"][0]),
        int(status["RssAnon"][0]),
    )


@pytest.mark.timeout(300)
def test_fifty_rounds(tmp_path: Path, compile_program: Callable[..., Path]) -> None:
    """Areas, descriptors and memory stay as they were; every tick is there once."""
    flags = ["-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]
    binary = compile_program(
        "steady.c", "gcc", *flags, "-o", "{target}", "{source}", product="steady"
    )
    with App(tmp_path, [binary]) as app:
        app.wait_for_lines(5)
        before = size_of(app.pid)
        for _ in range(ROUNDS):
            app.snapshot()
            seen = len(app.lines())
            app.restore()
            app.wait_for_lines(seen + 3)
        after = size_of(app.pid)
        assert app.finish() == 0, app.err.read_text()
        lines = app.lines()
    assert lines == [*(f"tick {n} 0" for n in range(len(lines) - 1)), "DONE"]
    assert (after.areas, after.descriptors) == (before.areas, before.descriptors)
    assert after.virtual_kib == before.virtual_kib
    assert after.anonymous_kib <= before.anonymous_kib + MEMORY_SLACK_KIB

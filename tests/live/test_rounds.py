"""Fifty snapshot and restore rounds of one process leave it as it was."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.live.harness import Build, Case, Mode, Target

ROUNDS = 50


class Size(NamedTuple):
    """What may not grow. `areas` counts neighbours that /proc cannot tell apart as one."""

    areas: int
    descriptors: int
    threads: int
    resident_kib: int
    tables_kib: int


_MAPS_LINE = re.compile(r"(\w+)-(\w+) (....) (\w+) (\S+) (\d+) *(.*)")


def count_areas(maps: str) -> int:
    """Count areas, merging adjacent ones that continue each other."""
    count = 0
    last: tuple[str, ...] = ()
    last_end = expected_offset = -1
    for line in maps.splitlines():
        match = _MAPS_LINE.fullmatch(line)
        assert match, line
        start, end, perms, offset, device, inode, name = match.groups()
        same = (perms, device, inode, name) == last and int(start, 16) == last_end
        continues = inode == "0" or int(offset, 16) == expected_offset
        count += not (same and continues)
        last, last_end = (perms, device, inode, name), int(end, 16)
        expected_offset = int(offset, 16) + int(end, 16) - int(start, 16)
    return count


def _measure(pid: int) -> Size:
    proc = Path(f"/proc/{pid}")
    status = dict(
        line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
    )
    return Size(
        areas=count_areas((proc / "maps").read_text()),
        descriptors=len(os.listdir(proc / "fd")),
        threads=int(status["Threads"]),
        resident_kib=int(status["VmRSS"].split()[0]),
        tables_kib=int(status["VmPTE"].split()[0]),
    )


@pytest.mark.timeout(180)
def test_fifty_rounds_leave_a_process_as_it_was(build: Build) -> None:
    with Target(Case("rounds"), build) as target:
        target.start()
        assert target.wait_ready()
        before = _measure(target.pid)
        image_sizes = []
        for _ in range(ROUNDS):
            target.snapshot()
            image_sizes.append(target.image.stat().st_size)
            target.restore()
        after = _measure(target.pid)
        target.go(Mode.RESTORED)
        assert target.wait_result().text == "PASS\n"
        assert after.areas == before.areas
        assert after.descriptors == before.descriptors
        assert after.threads == before.threads
        assert after.resident_kib <= before.resident_kib + 1024
        assert after.tables_kib <= before.tables_kib + 64
        assert image_sizes[-1] <= image_sizes[0] + 65536


def test_areas_that_continue_each_other_count_once() -> None:
    maps = (
        "1000-2000 rw-p 00000000 00:00 0 \n"
        "2000-3000 rw-p 00000000 00:00 0 \n"
        "3000-4000 r--p 00000000 08:01 5 /x\n"
        "4000-5000 r--p 00001000 08:01 5 /x\n"
        "5000-6000 r--p 00000000 08:01 5 /x\n"
    )
    assert count_areas(maps) == 3

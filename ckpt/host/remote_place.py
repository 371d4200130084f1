"""Where a stopped process can be made to call: an instruction and memory that it already has."""

from __future__ import annotations

import bisect
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_INSTRUCTION: Final = b"\x0f\x05"
_RED_ZONE: Final = 128
"""System V ABI, x86-64: bytes below rsp that a program may use without moving it."""
_ALIGN: Final = 64
_PAGE: Final = 4096
_PAGE_EXISTS: Final = 0b11 << 62
"""Present or swapped out: bits of a /proc/PID/pagemap entry (Documentation/admin-guide/mm)."""
_TRIED_AREAS: Final = 64
_END: Final = 1 << 64


class Area(NamedTuple):
    """A private area that can be written; `end` is exclusive."""

    start: int
    end: int
    is_anonymous: bool


class CallPlace(NamedTuple):
    """Where a process can be made to call: addresses in the target."""

    instruction: int
    areas: list[Area]
    """By address."""


def find_place(tgid: int, tid: int, maps: bytes, likely: Iterable[int]) -> CallPlace | None:
    """Find a `syscall` instruction of a stopped process, first at the `likely` addresses.

    None: no code of it holds one.
    """
    lines = maps.splitlines()
    memory = os.open(f"/proc/{tgid}/task/{tid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for address in (*likely, *_in_code(memory, lines)):
            if peek(memory, address, 2) == _INSTRUCTION:
                return CallPlace(address, list(_writable(lines)))
    finally:
        os.close(memory)
    return None


def _writable(lines: list[bytes]) -> Iterator[Area]:
    for line in lines:
        addresses, permissions, _, _, inode = line.split(None, 5)[:5]
        if permissions[1:2] == b"w" and permissions[3:4] == b"p":
            start, _, end = addresses.partition(b"-")
            yield Area(int(start, 16), int(end, 16), inode == b"0")


def _in_code(memory: int, lines: list[bytes]) -> Iterator[int]:
    """Yield where the two bytes of `syscall` stand in code, the vdso's first.

    They need not be an instruction of the program: the CPU decodes from where rip points.
    """
    executable = [line for line in lines if line.split(None, 2)[1][2:3] == b"x"]
    for line in sorted(executable, key=lambda line: not line.endswith(b"[vdso]")):
        if line.endswith(b"[vsyscall]"):
            continue
        start, end = (int(part, 16) for part in line.split(None, 1)[0].split(b"-"))
        for at in range(start, end, 1 << 20):
            found = peek(memory, at, min(1 << 20, end - at)).find(_INSTRUCTION)
            if found >= 0:
                yield at + found
                break


def peek(memory_fd: int, address: int, size: int) -> bytes:
    """Read the target's memory; what is not mapped reads as nothing."""
    try:
        return os.pread(memory_fd, size, address)
    except (OSError, OverflowError):
        return b""


def find_memory(tgid: int, tid: int, areas: Sequence[Area], rsp: int, size: int) -> int | None:
    """Choose private memory for results whose pages exist already, below the stack if possible.

    Last comes a place below the stack pointer whose pages do not exist yet. None: there is none.
    """
    below = (rsp - _RED_ZONE - size) & -_ALIGN
    usable = _is_writable(areas, below, size)
    if usable and _exists(tgid, tid, below, size):
        return below
    roomy = [area for area in areas if area.end - area.start >= size]
    for area in sorted(roomy, key=lambda area: not area.is_anonymous)[:_TRIED_AREAS]:
        for place in (area.start, area.end - size):
            if _exists(tgid, tid, place, size):
                return place
    return below if usable else None


def _is_writable(areas: Sequence[Area], place: int, size: int) -> bool:
    index = bisect.bisect_right(areas, (place, _END, True)) - 1
    return index >= 0 and areas[index].start <= place and place + size <= areas[index].end


def _exists(tgid: int, tid: int, place: int, size: int) -> bool:
    """Tell whether the pages of a place are there: touching one must not make it."""
    first, last = place // _PAGE, (place + size - 1) // _PAGE
    with open(f"/proc/{tgid}/task/{tid}/pagemap", "rb", buffering=0) as pagemap:
        entries = os.pread(pagemap.fileno(), (last - first + 1) * 8, first * 8)
    return all(entry & _PAGE_EXISTS for (entry,) in struct.iter_unpack("<Q", entries))

"""What a core file is made of: one process as plain facts, whoever looked at it.

`core_image` takes them from an image's records, `core_live` from a stopped process. Nothing here
knows the ELF format.
"""

from __future__ import annotations

import operator
import os
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.objects.areas import Area

    Range = tuple[int, int]
    """start and end, half-open."""


class Stored:
    """Pages that lie one after the other in a file: those of an mm, by address, or of an inode."""

    def __init__(self, fd: int = -1, extents: array[int] | None = None, offset: int = 0) -> None:
        """Take flat (start, length) pairs, sorted; the first one's bytes stand at `offset`."""
        extents = extents if extents is not None else array("Q")
        self.fd = fd
        self.starts = extents[0::2]
        self.ends = array("Q", map(operator.add, self.starts, extents[1::2]))
        self.offsets = array("Q", accumulate(extents[1::2], initial=offset))
        self.total_bytes = sum(extents[1::2])

    def iter_within(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, file offset) of what is stored in a range, cut to it."""
        first, last = bisect_right(self.ends, start), bisect_left(self.starts, end)
        for i in range(first, last):
            low, high = max(start, self.starts[i]), min(end, self.ends[i])
            yield low, high, self.offsets[i] + low - self.starts[i]

    def has_any(self, start: int, end: int) -> bool:
        """Tell whether some page of a range is stored."""
        index = bisect_right(self.ends, start)
        return index < len(self.starts) and self.starts[index] < end

    def read(self, address: int, size: int) -> bytes:
        """Return bytes, as many as are stored in one piece."""
        for low, high, offset in self.iter_within(address, address + size):
            return os.pread(self.fd, high - low, offset) if low == address else b""
        return b""


class Content(NamedTuple):
    """An inode without a name whose bytes were captured."""

    size_bytes: int
    stored: Stored
    tail: bytes = b""
    """What follows the last whole page."""


class Source(Protocol):
    """The file behind an area, as it is on this machine."""

    def open(self) -> int:
        """Return a descriptor of ours, which the caller closes; -1 when the file is no help."""

    @property
    def problem(self) -> str:
        """Return why `open` gave -1."""


class CoreFile(NamedTuple):
    """One file that areas map; it has its content here, or on this machine's disk, or nowhere."""

    name: bytes
    """As /proc/PID/maps shows it."""
    content: Content | None
    source: Source | None


class CoreThread(NamedTuple):
    """One thread in the formats of the kernel's regsets."""

    tid: int
    regs: bytes
    """struct user_regs_struct, 216 bytes."""
    xstate: bytes
    """NT_X86_XSTATE; empty: none."""
    tls: bytes
    """NT_386_TLS: three struct user_desc; empty: it has none."""
    pending: int
    blocked: int
    """Bit n-1 is signal n."""


class CoreProcess(NamedTuple):
    """One process."""

    pid: int
    ppid: int
    """0: not known."""
    pgid: int
    sid: int
    uid: int
    gid: int
    nice: int
    comm: bytes
    arguments: Range
    """Where argv's text stands in its memory."""
    auxv: bytes
    stop_signal: int
    """The job control signal that had stopped it; 0: it ran."""
    threads: Sequence[CoreThread]
    areas: Sequence[Area]
    """In order, without overlap, page aligned."""
    files: Sequence[CoreFile]
    vdso: bytes
    memory: Stored


def mask_of_pending(numbers: Sequence[int]) -> int:
    """Return signal numbers as a mask of 64 bits."""
    mask = 0
    for number in numbers:
        if 0 < number <= 64:
            mask |= 1 << (number - 1)
    return mask

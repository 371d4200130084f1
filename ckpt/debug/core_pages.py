"""Copies the pages of a stopped process, and holds the files that it maps.

Owns what must happen while the process stands still: own pages, and inodes that no name leads to.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
from array import array
from typing import TYPE_CHECKING, Final

from ckpt.errors import CaptureError
from ckpt.host import pagemap
from ckpt.objects.file_kinds.inode import PAGE, data_extents
from ckpt.objects.vma_flags import Vm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.debug.core_facts import Range
    from ckpt.objects.base import Process
    from ckpt.objects.maps_text import MapsLine

MEMORY: Final = 1
"""The objref of the process's own pages; those of inodes follow."""
_OUR_FDS: Final = 100
_UNREADABLE: Final = (b"[vvar]", b"[vvar_vclock]", b"[vsyscall]")
_NO_PAGES: Final = Vm.IO | Vm.PFNMAP | Vm.MIXEDMAP
_UFFD: Final = Vm.UFFD_MISSING | Vm.UFFD_WP


def store_pages(process: Process, lines: list[MapsLine], flags: dict[int, int]) -> None:
    """Copy every page that holds something of its own.

    Where a userfaultfd waits for faults only present pages are read: whoever would answer for the
    others stands still.
    """
    waits = [line for line in lines if flags.get(line.start, 0) & _UFFD]
    skip = {(line.start, line.end) for line in lines if line.name in _UNREADABLE}
    skip |= {(ln.start, ln.end) for ln in lines if flags.get(ln.start, 0) & (_NO_PAGES | _UFFD)}
    pagemap_fd = os.open(process.path("pagemap"), os.O_RDONLY | os.O_CLOEXEC)
    mem_fd = os.open(process.path("mem"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        extents = pagemap.scan_own_pages(pagemap_fd, sorted(skip))
        if waits:
            extents = _add_present(pagemap_fd, extents, waits)
        assert process.sink is not None
        process.sink.store(MEMORY, mem_fd, extents, process.living_tid)
    finally:
        os.close(pagemap_fd)
        os.close(mem_fd)


def _add_present(pagemap_fd: int, extents: array[int], lines: list[MapsLine]) -> array[int]:
    unwanted = pagemap.PAGE_IS_FILE | pagemap.PAGE_IS_PFNZERO
    found = list(zip(extents[0::2], extents[1::2], strict=True))
    for line in lines:
        more = pagemap.scan_pages(
            pagemap_fd,
            inverted=unwanted,
            mask=unwanted | pagemap.PAGE_IS_PRESENT,
            anyof=0,
            start=line.start,
            end=line.end,
        )
        found += zip(more[0::2], more[1::2], strict=True)
    return array("Q", [number for pair in sorted(found) for number in pair])


class HeldFile:
    """A mapped regular file, held open so that it stays what it was; a `core_facts.Source`."""

    problem = ""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.ref = 0
        """Under which its content was stored; 0: it was not."""
        self.size_bytes = 0
        self.tail = b""

    def open(self) -> int:
        """Return a descriptor of its own."""
        return os.dup(self.fd)


def open_files(
    process: Process, lines: list[MapsLine], flags: dict[int, int], opened: list[int]
) -> dict[tuple[bytes, int], HeldFile]:
    """Open every mapped regular file; copy those at once that no name leads to."""
    found: dict[tuple[bytes, int], HeldFile] = {}
    spans: dict[tuple[bytes, int], list[Range]] = {}
    for line in lines:
        span = (line.offset, line.offset + line.end - line.start)
        spans.setdefault((line.dev, line.inode), []).append(span)
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OUR_FDS
    for line in lines:
        key = (line.dev, line.inode)
        if not line.inode or key in found or flags.get(line.start, 0) & Vm.HUGETLB:
            continue
        link = f"/proc/{process.living_tid}/map_files/{line.start:x}-{line.end:x}"
        try:
            if len(found) >= room:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            # Opening a device could do something.
            status = os.stat(link)
            if not stat.S_ISREG(status.st_mode):
                continue
            fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            opened.append(fd)
            file = found[key] = HeldFile(fd)
            if status.st_nlink == 0:
                ref = MEMORY + len(found)
                _store_content(process, file, status.st_size, sorted(spans[key]), ref)
        except (OSError, CaptureError) as error:
            what = f"cannot be read: {os.strerror(error.errno or 0)}"
            process.warn(f"mapped file {os.fsdecode(line.name)!r}", what)
    return found


def _store_content(
    process: Process, file: HeldFile, size: int, spans: Iterable[Range], ref: int
) -> None:
    """Copy what is mapped of an inode without a name: nobody can read it later."""
    whole = size & -PAGE
    held = ((start, start + length) for start, length in data_extents(file.fd, whole))
    mapped = [(low, high - low) for low, high in _intersect(held, spans)]
    file.tail = os.pread(file.fd, size - whole, whole)
    file.size_bytes = size
    assert process.sink is not None
    process.sink.store(ref, file.fd, array("Q", [number for pair in mapped for number in pair]))
    file.ref = ref


def _intersect(held: Iterator[Range], spans: Iterable[Range]) -> Iterator[Range]:
    """Yield what is in both, in order; `held` are sorted and apart, `spans` are sorted."""
    low, high = next(held, (0, 0))
    done = 0
    for start, end in spans:
        while low < high:
            first, last = max(low, start, done), min(high, end)
            if first < last:
                yield first, last
                done = last
            if high > end:
                break
            low, high = next(held, (0, 0))

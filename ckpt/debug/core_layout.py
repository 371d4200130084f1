"""Which bytes of a process go into its core file, and where: the PT_LOAD segments.

The rules are the kernel's defaults (`fs/coredump.c`, vma_dump_size): own pages are in, what files
on disk hold is not, but for the first page of an ELF file, which has the build-id. A debugger takes
the rest from the file that NT_FILE names; with `full` the core has it. Two things differ. What an
area of own pages does not store reads as zeros or as its file, so that every value is there. And
long stretches without pages of their own have no bytes in the core, or it would be as large as the
address space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.errors import CkptError, Finding
from ckpt.objects.vma_flags import Vm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.debug.core_facts import Content, CoreProcess, Range
    from ckpt.debug.core_files import Files
    from ckpt.objects.areas import Area

PAGE: Final = 4096
ZEROS_BYTES: Final = 1 << 30
"""A longer stretch of anonymous memory without pages has no bytes in the core."""
WHOLE_BYTES: Final = 16 << 20
"""An area of a file with pages of its own is written whole up to here."""
_GAP_BYTES: Final = 64 << 10
"""In larger ones, so much of the file is written between two pages at most."""
_ROOM_BYTES: Final = 1 << 30
_REPEATS: Final = 16
"""Bytes of files and inodes are copied up to 1 GiB and 16 times what is stored: an image could name
the same large file in a million areas."""
_END_BYTES: Final = 1 << 62
MAX_SEGMENTS: Final = 1 << 20
_NOT_DUMPED: Final = Vm.DONTDUMP | Vm.IO | Vm.PFNMAP
_SHARED_HUGE: Final = Vm.HUGETLB | Vm.MAYSHARE


class Piece(NamedTuple):
    """A part of an area that becomes a segment of its own."""

    start: int
    end: int
    file_bytes: int = 0
    """From `start` on, so many bytes are in the core."""
    file: int = -1
    """Index of the file that fills what is not stored; -1: zeros."""
    file_offset: int = 0
    data: bytes = b""
    """What stands there: the vdso."""


class Segment(NamedTuple):
    """One PT_LOAD: its bytes stand at `offset` of the core."""

    piece: Piece
    flags: int
    """PF_R 4, PF_W 2, PF_X 1."""
    offset: int


class Layout(NamedTuple):
    """All segments, by address; offsets begin at 0."""

    segments: list[Segment]
    size_bytes: int
    findings: list[Finding]
    """What a debugger will not see, or not as it was."""


def plan_layout(process: CoreProcess, files: Files, *, full: bool = False) -> Layout:
    """Divide every area of a process into segments; with `full`, files on disk are copied as well.

    Raises:
        CkptError: they make no file.
    """
    planner = _Planner(process, files, full)
    segments, offset = [], 0
    for area in process.areas:
        for piece in planner.divide(area):
            segments.append(Segment(piece, _segment_flags(area.flags), offset))
            offset += piece.file_bytes + -piece.file_bytes % PAGE
        if len(segments) > MAX_SEGMENTS:
            what = f"more than {MAX_SEGMENTS} segments are no use to a debugger"
            raise CkptError(what, where=f"process {process.pid}")
    if offset > _END_BYTES:
        raise CkptError(f"areas of {offset} bytes fit into no file", where=f"process {process.pid}")
    return Layout(segments, offset, planner.findings())


def _segment_flags(flags: int) -> int:
    """Turn VM_READ 1, VM_WRITE 2, VM_EXEC 4 into PF_R 4, PF_W 2, PF_X 1."""
    return (flags & Vm.READ) << 2 | flags & Vm.WRITE | (flags & Vm.EXEC) >> 2


class _Planner:
    """Divides areas; keeps count of what is copied from elsewhere than the pages."""

    def __init__(self, process: CoreProcess, files: Files, full: bool) -> None:
        self._process = process
        self._memory = process.memory
        self._files = files
        self._left_out: set[int] = set()
        """Files of which the core lacks what only they have."""
        stored = process.memory.total_bytes
        stored += sum(file.content.stored.total_bytes for file in process.files if file.content)
        if full:
            stored += sum(files.facts(index).disk_bytes for index in range(len(process.files)))
        self._room = _ROOM_BYTES + _REPEATS * stored
        self._full = full
        self._has_no_room = False

    def divide(self, area: Area) -> Iterator[Piece]:
        """Yield the pieces of one area, in order and without gaps."""
        if area.special:
            data = self._process.vdso if area.special == b"[vdso]" else b""
            data = data[: area.end - area.start]
            return iter([Piece(area.start, area.end, len(data), data=data)])
        if area.flags & _NOT_DUMPED:
            return iter([Piece(area.start, area.end)])
        if area.flags & _SHARED_HUGE == _SHARED_HUGE:
            self._left_out.update({area.file} - {-1})
            return iter([Piece(area.start, area.end)])
        if area.file < 0:
            return self._divide_anonymous(area)
        content = self._process.files[area.file].content
        if content is not None:
            return self._divide_content(area, content)
        return self._divide_mapped(area)

    def findings(self) -> list[Finding]:
        """Return what will be missing."""
        found = []
        for index in sorted(self._left_out):
            name = self._process.files[index].name.decode("utf-8", "backslashreplace")
            problem = self._files.facts(index).problem or "has huge pages"
            what = f"{problem}: what only it has is not in the core"
            found.append(Finding(f"mapped file {name!r}", what, blocker=False))
        if self._has_no_room:
            what = f"mapped more than {_REPEATS} times over: not all of the copies are in the core"
            found.append(Finding("files", what, blocker=False))
        return found

    def _divide_anonymous(self, area: Area) -> Iterator[Piece]:
        size = area.end - area.start
        has_any = self._memory.has_any(area.start, area.end)
        if size <= ZEROS_BYTES and (has_any or area.prot):
            return iter([Piece(area.start, area.end, size)])
        own = self._own(area) if has_any else ()
        return _cut(area, _merge(own, ZEROS_BYTES), fill=False)

    def _own(self, area: Area) -> Iterable[Range]:
        return ((low, high) for low, high, _ in self._memory.iter_within(area.start, area.end))

    def _divide_content(self, area: Area, content: Content) -> Iterator[Piece]:
        """Take what the inode held, and over it what a private mapping has changed."""
        behind = content.size_bytes + -content.size_bytes % PAGE
        end = max(min(area.end, area.start + behind - area.offset), area.start)
        used = sum(
            high - low
            for low, high, _ in content.stored.iter_within(
                area.offset, area.offset + end - area.start
            )
        )
        if not self._take(used):
            return _cut(area, _merge(self._own(area), 0), fill=False)
        if end - area.start <= ZEROS_BYTES:
            size = end - area.start
            return iter([Piece(area.start, area.end, size, area.file, area.offset)])
        both = sorted([*self._own(area), *_content_ranges(area, content, end)])
        return _cut(area, _merge(both, ZEROS_BYTES), fill=True)

    def _take(self, size: int) -> bool:
        if size > self._room:
            self._has_no_room = True
            return False
        self._room -= size
        return True

    def _divide_mapped(self, area: Area) -> Iterator[Piece]:
        """Take own pages with what is around them, or just the header of an ELF file."""
        facts = self._files.facts(area.file)
        if facts.problem:
            self._left_out.add(area.file)
        elif self._full:
            behind = facts.size_bytes + -facts.size_bytes % PAGE - area.offset
            size = max(0, min(area.end - area.start, behind))
            if self._take(size):
                return iter([Piece(area.start, area.end, size, area.file, area.offset)])
        if not self._memory.has_any(area.start, area.end):
            has_header = facts.is_elf and area.offset == 0 and area.flags & Vm.READ
            size = PAGE if has_header and not area.flags & Vm.SHARED else 0
            return iter([Piece(area.start, area.end, size, area.file, 0)])
        if facts.problem:
            return _cut(area, _merge(self._own(area), 0), fill=False)
        size = area.end - area.start
        if size <= WHOLE_BYTES and self._take(size):
            return iter([Piece(area.start, area.end, size, area.file, area.offset)])
        stretches = list(_merge(self._own(area), _GAP_BYTES))
        if not self._take(sum(high - low for low, high in stretches)):
            return _cut(area, _merge(self._own(area), 0), fill=False)
        return _cut(area, stretches, fill=True)


def _content_ranges(area: Area, content: Content, end: int) -> Iterator[Range]:
    """Yield where in memory an inode's data stand."""
    shift = area.start - area.offset
    last = end - shift
    for low, high, _ in content.stored.iter_within(area.offset, last):
        yield low + shift, high + shift
    whole = content.size_bytes & -PAGE
    if content.tail and area.offset <= whole < last:
        yield whole + shift, whole + shift + PAGE


def _merge(ranges: Iterable[Range], gap_bytes: int) -> Iterator[Range]:
    """Yield sorted ranges, those as one that lie at most `gap_bytes` apart."""
    start = end = -1
    for low, high in ranges:
        if start >= 0 and low <= end + gap_bytes:
            end = max(end, high)
            continue
        if start >= 0:
            yield start, end
        start, end = low, high
    if start >= 0:
        yield start, end


def _cut(area: Area, stretches: Iterable[Range], *, fill: bool) -> Iterator[Piece]:
    """Yield the stretches of an area with their bytes, what is between them without."""
    at = area.start
    for low, high in stretches:
        if at < low:
            yield Piece(at, low)
        if fill:
            yield Piece(low, high, high - low, area.file, area.offset + low - area.start)
        else:
            yield Piece(low, high, high - low)
        at = high
    if at < area.end:
        yield Piece(at, area.end)

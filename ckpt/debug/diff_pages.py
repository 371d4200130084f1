"""Which pages differ between two images of a process, and which variables lie in them.

No Python code runs for each page: chunks of 1 MiB are compared whole, the pages of a chunk that
differs by iterators in C. Memory is bounded by a few chunks, whatever the images' size.
"""

from __future__ import annotations

import operator
import os
import re
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.session_symbols import symbol_at
from ckpt.debug.session_tasks import name_area
from ckpt.debug.stored import Extents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckpt.debug.diff_areas import Segment
    from ckpt.debug.session_memory import Memory
    from ckpt.debug.session_symbols import Symbol
    from ckpt.image.reader import ImageFile

    Read = Callable[[int, int], bytes]
    """(address, size) -> bytes; fewer where they are not known."""
    Watch = Callable[[int, bytes, bytes], None]
    """Is told of pages that differ: (address, bytes before, bytes after)."""

PAGE: Final = 4096
_CHUNK: Final = 1 << 20
_PAGES: Final = struct.Struct(f"{PAGE}s")
_CHANGED: Final = re.compile(rb"\x01+")
_NOT_ZERO: Final = re.compile(rb"[^\0]")
_WORD: Final = 8
_VALUE_BYTES: Final = 16
_MAX_STEPS: Final = 500_000
"""Look-ups of variables in all; symbol tables may be made to cost time."""


class PageRange(NamedTuple):
    """Consecutive pages, [start, end), of which the same is to be said."""

    start: int
    end: int
    what: str
    """`new`: stored in the second image only; `gone`: in the first only; `changed`: in both."""
    differs: bool | None
    """Whether bytes differ: a new page may hold what was there before. None: not known, because
    the range is not mapped in the other image, or is of a file that is not here unchanged."""

    @property
    def pages(self) -> int:
        """How many pages."""
        return (self.end - self.start) // PAGE


class AreaPages(NamedTuple):
    """The pages that differ in one range of the layout, or in the content of one inode."""

    start: int
    end: int
    name: str
    """Safe to print."""
    new: int
    gone: int
    changed: int
    ranges: list[PageRange]


class Variable(NamedTuple):
    """A variable with other bytes than before; or a function, whose code was changed."""

    name: str
    file: str
    is_function: bool
    address: int
    size: int
    changed_bytes: int
    offset: int
    """Of the first byte that differs."""
    before: str
    after: str
    """Hex, of the bytes from the first that differs, rounded down to its word; at most 16."""

    def values(self) -> tuple[int, int] | None:
        """Return both as numbers if it has the size of one, else None."""
        if self.is_function or self.size not in (1, 2, 4, 8):
            return None
        both = bytes.fromhex(self.before), bytes.fromhex(self.after)
        return int.from_bytes(both[0], "little"), int.from_bytes(both[1], "little")


class PageDiff(NamedTuple):
    """All of it."""

    new: int
    gone: int
    changed: int
    stored_before: int
    stored_after: int
    areas: list[AreaPages]
    variables: list[Variable]
    variables_complete: bool
    """False: so much differs that not every variable was looked for."""


def compare_pages(before: Memory, after: Memory, segments: Sequence[Segment]) -> PageDiff:
    """Compare the pages of two processes; `segments` are those of their layouts."""
    variables = _Variables(before, after)
    areas: list[AreaPages] = []
    for segment in segments:
        has_both = segment.before is not None and segment.after is not None
        watch = variables.look if has_both else None
        found = _compare_segment(before, after, segment, has_both, watch)
        if found:
            memory = before if segment.after is None else after
            area = memory.area(segment.start)
            name = name_area(area, memory) if area is not None else ""
            _append(areas, _summed(segment.start, segment.end, name, found))
    return _totalled(before.space.stored, after.space.stored, areas, variables)


def _append(areas: list[AreaPages], found: AreaPages) -> None:
    """Add to the list; what continues the one before, such as a heap that has grown, joins it."""
    last = areas[-1] if areas else None
    if last is not None and (last.end, last.name) == (found.start, found.name):
        areas[-1] = _summed(last.start, found.end, last.name, last.ranges + found.ranges)
    else:
        areas.append(found)


def compare_contents(
    before: ImageFile, after: ImageFile, pairs: Iterable[tuple[int, int, int, str]]
) -> list[AreaPages]:
    """Compare the contents of inodes; `pairs` are (objref, objref, size, name), 0: none there."""
    areas = []
    for ref, other, size, name in pairs:
        old, new = _Content(before, ref), _Content(after, other)
        end = -(-size // PAGE) * PAGE
        found = list(_compare_range(old.extents, new.extents, old.read, new.read, 0, end, None))
        if found:
            areas.append(_summed(0, end, name, found))
    return areas


class _Content:
    """The content of one inode of an image; pages that are not stored are zero."""

    def __init__(self, image: ImageFile, ref: int) -> None:
        self._fd = image.fd
        self.extents = Extents(*image.page_extents(ref)) if ref in image.pages else Extents()

    def read(self, start: int, size: int) -> bytes:
        parts, end = [], start + size
        while start < end:
            length, offset = self.extents.find(start, end)
            part = os.pread(self._fd, length, offset) if length > 0 else bytes(-length)
            parts.append(part)
            if len(part) < abs(length):
                break
            start += abs(length)
        return b"".join(parts)


def _compare_segment(
    before: Memory, after: Memory, segment: Segment, has_both: bool, watch: Watch | None
) -> list[PageRange]:
    old, new = before.space, after.space
    if has_both:
        start, end = segment.start, segment.end
        return list(_compare_range(old.stored, new.stored, old.read, new.read, start, end, watch))
    what, extents = ("gone", old.stored) if segment.after is None else ("new", new.stored)
    return [
        PageRange(start, end, what, None)
        for start, end, is_stored in _spans(extents, segment.start, segment.end)
        if is_stored
    ]


def _spans(extents: Extents, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (start, end, is stored) that cover [start, end)."""
    while start < end:
        length, _ = extents.find(start, end)
        yield start, start + abs(length), length > 0
        start += abs(length)


def _compare_range(
    old: Extents,
    new: Extents,
    read_old: Read,
    read_new: Read,
    start: int,
    end: int,
    watch: Watch | None,
) -> Iterator[PageRange]:
    """Yield the pages of a range that differ, or that only one image stores."""
    for low, high, in_old in _spans(old, start, end):
        for first, last, in_new in _spans(new, low, high):
            if not (in_old or in_new):
                continue
            what = "changed" if in_old and in_new else "new" if in_new else "gone"
            found = _merge(_compare_bytes(read_old, read_new, first, last, watch))
            for part_start, part_end, differs in found:
                if what != "changed" or differs is not False:
                    yield PageRange(part_start, part_end, what, differs)


def _merge(
    parts: Iterable[tuple[int, int, bool | None]],
) -> Iterator[tuple[int, int, bool | None]]:
    """Join neighbours of which the same is said."""
    last: tuple[int, int, bool | None] | None = None
    for part in parts:
        if last is not None and (last[1], last[2]) == (part[0], part[2]):
            last = (last[0], part[1], part[2])
            continue
        if last is not None:
            yield last
        last = part
    if last is not None:
        yield last


def _compare_bytes(
    read_old: Read, read_new: Read, start: int, end: int, watch: Watch | None
) -> Iterator[tuple[int, int, bool | None]]:
    """Yield (start, end, differs) that cover [start, end); None: one side is not known."""
    while start < end:
        size = min(_CHUNK, end - start)
        one, other = read_old(start, size), read_new(start, size)
        known = min(len(one), len(other)) // PAGE * PAGE
        if not known:
            yield start, end, None
            return
        if len(one) != len(other):
            one, other = one[:known], other[:known]
        if one == other:
            yield start, start + known, False
        else:
            yield from _compare_chunk(one, other, start, watch)
        start += known


def _compare_chunk(
    one: bytes, other: bytes, start: int, watch: Watch | None
) -> Iterator[tuple[int, int, bool]]:
    """Find the pages that differ in a chunk that does. The loops over pages are in C."""
    pages = bytes(map(operator.ne, _PAGES.iter_unpack(one), _PAGES.iter_unpack(other)))
    at = 0
    for match in _CHANGED.finditer(pages):
        low, high = match.start() * PAGE, match.end() * PAGE
        if at < low:
            yield start + at, start + low, False
        yield start + low, start + high, True
        if watch is not None:
            watch(start + low, one[low:high], other[low:high])
        at = high
    if at < len(one):
        yield start + at, start + len(one), False


class _Variables:
    """Finds the variables in ranges of bytes that differ, and keeps each once."""

    def __init__(self, before: Memory, after: Memory) -> None:
        self._spaces = before.space, after.space
        self._found: dict[tuple[int, int], tuple[Symbol, int, int]] = {}
        """(address, size) -> symbol, bytes that differ, offset of the first."""
        self._steps = 0

    @property
    def is_complete(self) -> bool:
        """Whether everything was looked at."""
        return self._steps < _MAX_STEPS

    def look(self, start: int, one: bytes, other: bytes) -> None:
        """Look for variables in bytes from `start` on that differ somewhere."""
        module = self._spaces[1].module_at(start)
        if module is None or module.symbols is None:
            return
        mixed = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
        differing = mixed.to_bytes(len(one), "little")
        match = _NOT_ZERO.search(differing)
        while match is not None and self.is_complete:
            self._steps += 1
            at = match.start()
            symbol = symbol_at(self._spaces[1], start + at)
            if symbol is None:
                following = module.symbols.next_start(start + at - module.bias)
                past = len(differing) if following is None else following + module.bias - start
            else:
                past = min(symbol.address + symbol.size - start, len(differing))
                self._add(symbol, differing[at:past], start + at - symbol.address)
            match = _NOT_ZERO.search(differing, past)

    def _add(self, symbol: Symbol, differing: bytes, offset: int) -> None:
        key = symbol.address, symbol.size
        count = len(differing) - differing.count(0)
        known = self._found.get(key)
        self._found[key] = (
            (symbol, known[1] + count, known[2])
            if known
            else (
                symbol,
                count,
                offset,
            )
        )

    def list(self) -> list[Variable]:
        """Return what was found, by address."""
        return [self._variable(*found) for _, found in sorted(self._found.items())]

    def _variable(self, symbol: Symbol, count: int, offset: int) -> Variable:
        at = offset - offset % _WORD
        size = min(symbol.size - at, _VALUE_BYTES)
        before, after = (space.read(symbol.address + at, size).hex() for space in self._spaces)
        name, address, length = symbol.name, symbol.address, symbol.size
        where = symbol.file, symbol.is_function, address, length
        return Variable(name, *where, count, offset, before, after)


def _summed(start: int, end: int, name: str, ranges: list[PageRange]) -> AreaPages:
    counts = dict.fromkeys(("new", "gone", "changed"), 0)
    for one in ranges:
        counts[one.what] += one.pages
    return AreaPages(start, end, name, counts["new"], counts["gone"], counts["changed"], ranges)


def _totalled(
    old: Extents, new: Extents, areas: list[AreaPages], variables: _Variables
) -> PageDiff:
    return PageDiff(
        sum(one.new for one in areas),
        sum(one.gone for one in areas),
        sum(one.changed for one in areas),
        old.total_within(0, 1 << 64) // PAGE,
        new.total_within(0, 1 << 64) // PAGE,
        areas,
        variables.list(),
        variables.is_complete,
    )

"""What changed in the layout of an address space: mapped, unmapped, grown, other protection.

Areas are compared as ranges, not one by one: the kernel splits and merges areas as it likes.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.render import to_plain
from ckpt.debug.session_tasks import name_area, protection
from ckpt.objects.vma_flags import Vm, name_flags

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckpt.debug.session_memory import Memory

_PROTECTION: Final = Vm.READ | Vm.WRITE | Vm.EXEC | Vm.MAYSHARE
_OTHERS: Final = (
    *("file", "offset", "pkey", "page_kib", "anon_name", "special", "policy", "guarded"),
)
"""Attributes that are not flags."""


class Attributes(NamedTuple):
    """What two neighbouring areas must agree in to be one."""

    flags: int
    file: tuple[Any, ...] | None
    """Of the mapped file, path and inode first; None: anonymous."""
    offset: int
    """Of the file at address 0 of the area's place: the same all along one mapping."""
    pkey: int
    page_kib: int
    anon_name: bytes
    special: bytes
    policy: str
    guarded: bool


class Segment(NamedTuple):
    """A range that is the same area all along in each image; None: not mapped there."""

    start: int
    end: int
    before: Attributes | None
    after: Attributes | None


class AreaChange(NamedTuple):
    """One range in which the layout differs."""

    what: str
    """`mapped`, `grown`, `unmapped`, `shrunk` or `changed`."""
    start: int
    end: int
    name: str
    """Of the area: file, heap, stack; safe to print."""
    protection: str
    """`rw-p`; of the second image unless it is unmapped there."""
    bytes: int
    changes: dict[str, list[Any]]
    """Of `changed`: what, before and after."""


def find_segments(
    before: Memory, after: Memory, label: Callable[[int, bool], int | str]
) -> list[Segment]:
    """Return the ranges that are mapped in one of the images, or in both, by address."""
    old = list(_ranges(before, lambda ref: label(ref, True)))
    new = list(_ranges(after, lambda ref: label(ref, False)))
    edges = sorted({edge for start, end, _ in (*old, *new) for edge in (start, end)})
    ones, others = _Cursor(old), _Cursor(new)
    segments: list[Segment] = []
    for start, end in pairwise(edges):
        found = Segment(start, end, ones.at(start), others.at(start))
        if found.before is None and found.after is None:
            continue
        last = segments[-1] if segments else None
        if last is not None and (last.end, last[2:]) == (start, found[2:]):
            segments[-1] = last._replace(end=end)
        else:
            segments.append(found)
    return segments


class _Cursor:
    """Looks up ranges at addresses that only go up."""

    def __init__(self, ranges: Sequence[tuple[int, int, Attributes]]) -> None:
        self._ranges = ranges
        self._index = 0

    def at(self, address: int) -> Attributes | None:
        while self._index < len(self._ranges) and self._ranges[self._index][1] <= address:
            self._index += 1
        if self._index < len(self._ranges) and self._ranges[self._index][0] <= address:
            return self._ranges[self._index][2]
        return None


def _ranges(
    memory: Memory, label: Callable[[int], int | str]
) -> Iterator[tuple[int, int, Attributes]]:
    """Yield (start, end, attributes) of every area, guard pages apart, by address."""
    space = memory.space
    files = [
        (one.path, one.dev, one.ino, one.size, one.mtime_ns, one.build_id, label(one.content))
        for one in space.files
    ]
    guards = deque(space.guards)
    for item in space.areas:
        area: Any = item
        file = files[area.file] if 0 <= area.file < len(files) else None
        offset = area.offset - area.start if file else 0
        names = area.pkey, area.page_kib, area.anon_name, area.special, area.policy
        found = Attributes(area.flags, file, offset, *names, False)
        start = area.start
        while guards and guards[0][0] < area.end:
            low, length = guards.popleft()
            low, high = max(low, start), min(low + length, area.end)
            if start < low:
                yield start, low, found
            if low < high:
                yield low, high, found._replace(guarded=True)
                start = high
        if start < area.end:
            yield start, area.end, found


def compare_areas(
    segments: Sequence[Segment], before: Memory, after: Memory
) -> Iterator[AreaChange]:
    """Yield each range in which the layout differs, by address."""
    for index, segment in enumerate(segments):
        if segment.before == segment.after:
            continue
        memory = before if segment.after is None else after
        area = memory.area(segment.start)
        name = name_area(area, memory) if area is not None else ""
        attributes = segment.after or segment.before
        shown = protection(attributes.flags) if attributes is not None else ""
        what, changes = _kind_of(segments, index), {}
        if segment.before is not None and segment.after is not None:
            changes = _changes(segment.before, segment.after)
        size = segment.end - segment.start
        yield AreaChange(what, segment.start, segment.end, name, shown, size, changes)


def _kind_of(segments: Sequence[Segment], index: int) -> str:
    segment = segments[index]
    if segment.before is not None and segment.after is not None:
        return "changed"
    near = [segments[at] for at in (index - 1, index + 1) if 0 <= at < len(segments)]
    near = [one for one in near if segment.start in (one.end,) or one.start == segment.end]
    if segment.before is None:
        # What it continues was there before, with the same attributes.
        is_more = any(one.before is not None and one.after == segment.after for one in near)
        return "grown" if is_more else "mapped"
    is_less = any(one.after is not None and one.before == segment.before for one in near)
    return "shrunk" if is_less else "unmapped"


def _changes(before: Attributes, after: Attributes) -> dict[str, list[Any]]:
    found = {}
    if (before.flags ^ after.flags) & _PROTECTION:
        found["protection"] = [protection(before.flags), protection(after.flags)]
    rest = [one.flags & ~_PROTECTION for one in (before, after)]
    if rest[0] != rest[1]:
        found["flags"] = [_flag_text(rest[0] & ~rest[1]), _flag_text(rest[1] & ~rest[0])]
    for name in _OTHERS:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found[name] = [to_plain(old), to_plain(new)]
    return found


def _flag_text(flags: int) -> str:
    unknown = flags & ~sum({bit for name, bit in vars(Vm).items() if name.isupper()})
    return " ".join([*name_flags(flags), *([hex(unknown)] if unknown else [])])

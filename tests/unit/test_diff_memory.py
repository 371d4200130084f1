"""Areas and pages of two images, compared with what a look at each single page says."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ckpt.debug.diff import ImageDiff, compare_images
from ckpt.debug.diff_text import diff_lines
from ckpt.debug.session import open_session
from ckpt.image.errors import ImageCorruptError
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.base import Record
from ckpt.objects.file_kinds.inode import InodeContent
from ckpt.objects.file_kinds.memfd import MemfdFile
from ckpt.objects.files import Descriptor, FileTable
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.vma_flags import Vm
from tests.unit.planning import process_record
from tests.unit.test_session_objects import (
    AT,
    PAGE,
    RW,
    Pages,
    layout,
    mm_record,
    tables,
    write_image,
)
from tests.unit.test_show import assert_harmless, thread

READ = int(Vm.READ | Vm.MAYREAD | Vm.MAYWRITE)
PAGES = 24
SOURCES = ("", "stored", "zero")


def process(areas: AreasRecord, *records: Record, **mm: int) -> list[Record]:
    given_types = {type(record) for record in records}
    rest = [one for one in tables() if type(one) not in given_types]
    return [process_record(412), thread(AT), mm_record(**mm), areas, *rest, *records]


def diff(
    folder: Path, before: tuple[list[Record], Pages], after: tuple[list[Record], Pages]
) -> tuple[ImageDiff, list[str]]:
    paths = [write_image(folder / name, *one) for name, one in (("a", before), ("b", after))]
    with open_session(paths[0]) as one, open_session(paths[1]) as other:
        found = compare_images(one, other)
        lines = list(diff_lines(found, one, other))
    for line in lines:
        assert_harmless(line)
    return found, lines


def runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Yield (first, count) of consecutive numbers."""
    for _, group in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        yield members[0], len(members)


class Memory:
    """A few pages, each unmapped, or of one protection and stored or not."""

    def __init__(self, rows: list[tuple[int, int]]) -> None:
        """`rows`: (protection 0 to 2, content 0 to 3) a page; 0: unmapped, not stored."""
        self.rows = rows

    def page(self, number: int) -> bytes:
        protection, content = self.rows[number]
        return bytes(PAGE) if not protection or content < 2 else bytes([content]) * PAGE

    def is_stored(self, number: int) -> bool:
        return all(self.rows[number])

    def parts(self, seed: int) -> tuple[list[Record], Pages]:
        """Return records and pages; areas are cut at random places as well."""
        dice = random.Random(seed)
        areas: list[Area] = []
        for number, (protection, _) in enumerate(self.rows):
            flags = (0, RW, READ)[protection]
            start, end = AT + number * PAGE, AT + (number + 1) * PAGE
            if (
                areas
                and areas[-1].end == start
                and areas[-1].flags == flags
                and dice.random() < 0.7
            ):
                areas[-1] = replace(areas[-1], end=end)
            elif protection:
                areas.append(Area(start, end, flags, 0))
        stored = [number for number in range(len(self.rows)) if self.is_stored(number)]
        pages = [
            (AT + first * PAGE, b"".join(self.page(first + at) for at in range(count)))
            for first, count in runs(stored)
        ]
        return process(layout(*areas)), {1: pages} if pages else {}


ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=PAGES, max_size=PAGES
).map(Memory)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=ROWS, after=ROWS, seed=st.integers(0, 1000))
def test_every_page_and_area(tmp_path: Path, before: Memory, after: Memory, seed: int) -> None:
    found, _ = diff(tmp_path, before.parts(seed), after.parts(seed + 1))
    (task,) = found.tasks
    told = {
        number: (one.what, one.differs)
        for area in task.pages.areas
        for one in area.ranges
        for number in range((one.start - AT) // PAGE, (one.end - AT) // PAGE)
    }
    assert told == dict(_expected_pages(before, after))
    kinds = [what for what, _ in told.values()]
    counts = (task.pages.new, task.pages.gone, task.pages.changed)
    assert counts == tuple(map(kinds.count, ("new", "gone", "changed")))
    changed = {}
    for area in task.areas:
        for number in range((area.start - AT) // PAGE, (area.end - AT) // PAGE):
            changed[number] = area.what
    assert changed.keys() == {
        n for n in range(PAGES) if before.rows[n][0] != after.rows[n][0]
    }  # fmt: skip
    for number, what in changed.items():
        wanted = {
            (True, False): ("unmapped", "shrunk"), (False, True): ("mapped", "grown"),
            (True, True): ("changed",),
        }[bool(before.rows[number][0]), bool(after.rows[number][0])]  # fmt: skip
        assert what in wanted
    assert found.same == (not told and not changed)


def _expected_pages(before: Memory, after: Memory) -> Iterator[tuple[int, tuple[str, bool | None]]]:
    for number in range(PAGES):
        old, new = before.is_stored(number), after.is_stored(number)
        if not (old or new):
            continue
        what = "changed" if old and new else "new" if new else "gone"
        differs: bool | None = before.page(number) != after.page(number)
        if not (before.rows[number][0] and after.rows[number][0]):
            differs = None
        if what != "changed" or differs:
            yield number, (what, differs)


def test_chunks_and_their_edges(tmp_path: Path) -> None:
    """Changes at both ends of chunks of 1 MiB, and of extents."""
    size = 5 << 20
    old = random.Random(1).randbytes(size)
    new = bytearray(old)
    numbers = {0, 255, 256, 257, 511, 800, 801, 802, 1279}
    for number in numbers:
        new[number * PAGE + number % PAGE] ^= 1
    areas = process(layout(Area(AT, AT + size, RW, 0)))
    found, _ = diff(tmp_path, (areas, {1: [(AT, old)]}), (areas, {1: [(AT, bytes(new))]}))
    (area,) = found.tasks[0].pages.areas
    assert [((one.start - AT) // PAGE, one.pages) for one in area.ranges] == list(
        runs(list(numbers))
    )
    assert (found.tasks[0].areas, found.tasks[0].pages.changed) == ([], len(numbers))


def test_a_growing_heap(tmp_path: Path) -> None:
    old = process(layout(Area(AT, AT + 4 * PAGE, RW, 0)), start_brk=AT, brk=AT + 4 * PAGE)
    new = process(layout(Area(AT, AT + 20 * PAGE, RW, 0)), start_brk=AT, brk=AT + 20 * PAGE)
    pages = [(AT, b"1" * PAGE)], [(AT, b"1" * PAGE * 11)]
    found, lines = diff(tmp_path, (old, {1: pages[0]}), (new, {1: pages[1]}))
    text = "\n".join(lines)
    assert "  heap              16 KiB -> 80 KiB (+64 KiB)" in text
    assert "grown    0x104000-0x114000 rw-p heap, 64 KiB" in text
    assert "pages: 10 new, 0 gone, 0 changed; 1 -> 11 stored" in text
    (heap,) = found.tasks[0].pages.areas
    assert [(one.pages, one.differs) for one in heap.ranges] == [(3, True), (7, None)]


def test_pages_of_a_file_that_is_not_here(tmp_path: Path) -> None:
    """What a page held before it was written cannot be known: said so, not guessed."""
    file = MappedFile("/nowhere/data", 1, 2, 8 * PAGE, 0)
    parts = process(layout(Area(AT, AT + 8 * PAGE, RW, 0, 0), files=[file]))
    found, _ = diff(tmp_path, (parts, {}), (parts, {1: [(AT + PAGE, b"x" * PAGE)]}))
    (area,) = found.tasks[0].pages.areas
    assert [(one.what, one.differs) for one in area.ranges] == [("new", None)]


def test_a_file_that_was_mapped_grows_and_is_replaced(tmp_path: Path) -> None:
    files = [MappedFile("/nowhere/a", 1, 2, 9, 0), MappedFile("/nowhere/a", 1, 2, 99, 0)]
    parts = [process(layout(Area(AT, AT + PAGE, RW, 0, 0), files=[file])) for file in files]
    found, _ = diff(tmp_path, (parts[0], {}), (parts[1], {}))
    (area,) = found.tasks[0].areas
    assert set(area.changes) == {"file"}
    assert not found.same


def memfd(size: int, tail: bytes, ref: int) -> list[Record]:
    content = InodeContent(
        ref=ref, kind="memfd", name=b"m\x1b", ino=ref, size=size, mode=0o100600, uid=0, gid=0,
        mtime_ns=0, seals=0, has_pages=True, tail=tail,
    )  # fmt: skip
    file = MemfdFile(ref=ref + 1, flags=os.O_RDWR, name=b"m\x1b", pos=0, dev=1, ino=ref, inode=ref)
    table = FileTable(ref=2, descriptors=[Descriptor(3, False, ref + 1)])
    return [content, file, table]


def test_contents_of_memfds(tmp_path: Path) -> None:
    """Under other objrefs and inode numbers: the same file by its descriptor."""
    before = process(layout(), *memfd(3 * PAGE, b"", 50)), {50: [(PAGE, b"a" * PAGE * 2)]}
    after = process(layout(), *memfd(3 * PAGE + 1, b"t", 70)), {70: [(0, b"b" * PAGE * 2)]}
    found, lines = diff(tmp_path, before, after)
    (content,) = found.contents
    assert [(one.start // PAGE, one.pages, one.what, one.differs) for one in content.ranges] == [
        (0, 1, "new", True),
        (1, 1, "changed", True),
        (2, 1, "gone", True),
    ]
    assert "contents of memory files:" in lines
    fields = {change.field for one in found.records for change in one.changes}
    assert fields >= {"size", "tail"}
    assert "descriptors" not in str(fields)


def test_guards_are_part_of_the_layout(tmp_path: Path) -> None:
    area = Area(AT, AT + 4 * PAGE, RW, 0)
    old, new = process(layout(area)), process(layout(area, guards=[(AT + PAGE, PAGE)]))
    found, _ = diff(tmp_path, (old, {}), (new, {}))
    assert [(one.start, one.bytes, one.changes) for one in found.tasks[0].areas] == [
        (AT + PAGE, PAGE, {"guarded": [False, True]})
    ]


@pytest.mark.parametrize("which", ["a", "b"])
def test_damaged_pages_are_no_difference(tmp_path: Path, which: str) -> None:
    parts = process(layout(Area(AT, AT + PAGE, RW, 0))), {1: [(AT, b"x" * PAGE)]}
    path = Path(write_image(tmp_path / which, *parts))
    with open_session(str(path)) as img:
        offset = img.image.pages[1].file_offset
    data = bytearray(path.read_bytes())
    data[offset + 9] ^= 4
    path.write_bytes(data)
    other = write_image(tmp_path / "good", *parts)
    paths: Any = (str(path), other) if which == "a" else (other, str(path))
    with (
        open_session(paths[0]) as one,
        open_session(paths[1]) as two,
        pytest.raises(ImageCorruptError, match="checksum"),
    ):
        compare_images(one, two)

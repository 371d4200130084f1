"""The page of a report: nothing that an image holds becomes markup, and its size is bounded."""

from __future__ import annotations

import json
import time
from array import array
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ckpt.debug
from ckpt.cli import main
from ckpt.debug.html_areas import MAX_ALONE, AreaMap
from ckpt.debug.html_page import build_page
from ckpt.debug.html_text import duration, element, ranges, safe, short, size
from ckpt.image.timings import Phase, Timings
from ckpt.image.writer import ImageWriter
from ckpt.objects import record_types
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.base import Record, Records
from ckpt.objects.file_kinds.eventfd import EventfdFile
from ckpt.objects.files import Descriptor, FileTable
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.vma_flags import Vm
from tests.unit.planning import process_record
from tests.unit.test_image_samples import HEADER
from tests.unit.test_show import assert_harmless, open_sample, struct_of, thread

if TYPE_CHECKING:
    from collections.abc import Sequence

MARKUP = "</style></script><script>alert('1')</script><img src=x onerror=alert(1)>\"'&amp;\x1b[2J"
VOID = ("meta", "br")
TAGS = frozenset(
    (
        *("html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav"),
        *("section", "h1", "h2", "h3", "p", "div", "span", "b", "small", "a", "br", "script"),
        *("ul", "ol", "li", "dl", "dt", "dd", "details", "summary"),
        *("table", "caption", "thead", "tbody", "tr", "th", "td"),
    )
)
ASSETS = Path(ckpt.debug.__file__).parent


class Page(HTMLParser):
    """Checks a page as it is parsed: tags that match, and nothing that runs or loads."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.counts: dict[str, int] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            assert not name.startswith("on") and name not in ("src", "action"), (tag, name)
            assert_harmless(value or "")
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.stack[-1] if self.stack else ""
        {"script": self.scripts, "style": self.styles}.get(inside, self.texts).append(data)


def check_page(text: str) -> Page:
    """Parse a page, which must load nothing, and run nothing but our script."""
    page = Page(text)
    assert "".join(page.scripts) == (ASSETS / "report.js").read_text()
    assert "".join(page.styles) == (ASSETS / "report.css").read_text()
    assert all(link.startswith("#") for link in page.links)
    assert len(set(page.ids)) == len(page.ids)
    assert "url(" not in "".join(page.styles) and "@import" not in "".join(page.styles)
    for line in text.split("\n"):
        assert_harmless(line.replace("\t", ""))
    return page


def areas_record(areas: Sequence[Area], files: Sequence[MappedFile] = ()) -> AreasRecord:
    return AreasRecord(ref=1, areas=list(areas), files=list(files), guards=[])


def area(start: int, end: int, flags: int = Vm.READ | Vm.WRITE, **more: object) -> Area:
    return msgspec.structs.replace(Area(start, end, flags, 0), **more)


def mapped(path: str) -> MappedFile:
    return MappedFile(path, 1, 2, 3, 4)


def sample(*records: Record) -> list[Record]:
    return [process_record(412), thread(0x1000, MARKUP.encode()), *records]


def test_text_is_escaped_wherever_it_stands() -> None:
    text = element("a", MARKUP, title=MARKUP, class_="x")
    assert "<script" not in text and "<img" not in text and "\x1b" not in text
    assert text.count("<") == 2
    assert safe(element("b", "x")) == "<b>x</b>"
    assert element("span", short(MARKUP, 20)).count("<") == 4


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([5, 3, 4], "3-5"), ([1, 3, 5], "1, 3 and 1 more")],
)
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers, 2) == text


def test_units() -> None:
    assert [size(n) for n in (0, 1, 4096, 24 << 20, 3 << 40)] == [
        *("0 bytes", "1 byte", "4 KiB", "24 MiB", "3 TiB")
    ]
    assert [duration(n) for n in (5, 1500, 23_100_000, 610_000_000, 2 * 10**9)] == [
        *("5 ns", "1.5 \u00b5s", "23.1 ms", "610 ms", "2 s")
    ]


def test_names_do_not_become_markup(tmp_path: Path) -> None:
    """Threads, files, areas and the page's own title."""
    areas = areas_record(
        [
            area(0x1000, 0x2000, file=0),
            area(0x2000, 0x9000, anon_name=MARKUP.encode()),
            area(0x9000, 0xA000, special=MARKUP.encode()),
        ],
        [mapped(f"/tmp/{MARKUP}")],
    )
    with open_sample(tmp_path, *sample(areas)) as image:
        page = check_page(build_page(image))
    assert sum("onerror=alert(1)" in text for text in page.texts) >= 3


def decodes(record: Record) -> bool:
    """Tell whether an image can hold these values: the reader refuses others."""
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=type(record))
    except (ValueError, OverflowError, msgspec.MsgspecError):
        return False
    return True


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hostile_records_make_a_page(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever values the records have: a page that is whole, and no strange error."""
    kinds = st.sampled_from(record_types())
    drawn = list(filter(decodes, data.draw(st.lists(kinds.flatmap(struct_of), max_size=6))))
    linked = [
        msgspec.structs.replace(record, ref=1 if isinstance(record, AreasRecord) else 2)
        if isinstance(record, AreasRecord | FileTable)
        else record
        for record in drawn
    ]
    with open_sample(tmp_path, *sample(*linked)) as image:
        check_page(build_page(image))
    with open_sample(tmp_path, *drawn) as image:
        check_page(build_page(image))


def test_stored_bytes_are_those_of_the_extents(tmp_path: Path) -> None:
    """Against a count page by page; extents begin and end in the middle of areas."""
    pairs = [(0x10000, 0x3000), (0x15000, 0x1000), (0x20000, 0x8000)]
    areas = [(0xF000, 0x11000), (0x11000, 0x15000), (0x15000, 0x24000), (0x30000, 0x31000)]
    path = tmp_path / "image"
    with ImageWriter.create(str(path), 4096) as writer:
        offset = writer.pages.begin(1, sum(length for _, length in pairs))
        writer.pages.write_at(offset, bytes(sum(length for _, length in pairs)))
        writer.pages.end(1, array("Q", [number for pair in pairs for number in pair]))
        writer.write_header(HEADER)
        writer.write_records(sample(areas_record([area(*span) for span in areas])))
        writer.commit()
    from ckpt.restore import open_image

    with open_image(str(path)) as image:
        blocks = AreaMap(image, Records(image.records)).blocks()
    stored = {at for start, length in pairs for at in range(start, start + length, 4096)}
    for block, (start, end) in zip(blocks, areas, strict=True):
        expected = sum(4096 for at in range(start, end, 4096) if at in stored)
        assert block.stored_bytes == expected


def test_kinds_of_areas(tmp_path: Path) -> None:
    """A guard below a stack is its neighbour's; what is inaccessible is reserved."""
    stack = thread(0x1000)
    stack = msgspec.structs.replace(stack, regs=msgspec.structs.replace(stack.regs, rsp=0x5_0800))
    areas = [
        area(0x1_0000, 0x1_1000, Vm.READ | Vm.EXEC, file=0),
        area(0x1_1000, 0x1_2000, Vm.READ, file=0),
        area(0x1_2000, 0x1_3000, Vm.READ | Vm.WRITE, file=0),
        area(0x2_0000, 0x2_1000, Vm.READ | Vm.WRITE | Vm.SHARED | Vm.MAYSHARE, file=0),
        area(0x3_0000, 0x3_1000, Vm.READ | Vm.WRITE | Vm.EXEC),
        area(0x4_F000, 0x5_0000, 0),
        area(0x5_0000, 0x5_1000),
        area(0x6_0000, 1 << 46, 0),
        area(0x7FFF_0000_0000, 0x7FFF_0000_1000, special=b"[vdso]"),
    ]
    records = [process_record(412), stack, areas_record(areas, [mapped("/lib/libx.so")])]
    with open_sample(tmp_path, *records) as image:
        blocks = AreaMap(image, Records(image.records)).blocks()
        page = build_page(image)
    assert [block.kind for block in blocks] == [
        *("code", "rodata", "data", "shared", "jit", "reserved", "stack", "reserved", "kernel")
    ]
    assert [block.name for block in blocks[5:7]] == ["guard", "stack 412"]
    assert blocks[5].group == blocks[6].group != ""
    check_page(page)


def test_the_size_is_bounded(tmp_path: Path) -> None:
    """20,000 areas, 10,000 descriptors and 1,000 threads, no two of them alike."""
    areas, files = [], []
    for index in range(20_000):
        start = 0x10_0000 + index * 0x20_0000
        areas.append(area(start, start + 4096 * (1 + index % 300), file=index % 5000))
    files = [mapped(f"/opt/{index}/" + "x" * 200) for index in range(5000)]
    records: list[Record] = [areas_record(areas, files)]
    table = [Descriptor(fd, False, 100 + fd) for fd in range(10_000)]
    records.append(FileTable(ref=2, descriptors=table))
    records += [
        EventfdFile(ref=100 + fd, flags=2, count=fd, is_semaphore=False) for fd in range(10_000)
    ]
    tids = range(1000, 2000)
    records += [
        msgspec.structs.replace(
            thread(0x1000 + tid), tid=tid, comm=b"t" + bytes([97 + tid % 26, 97 + tid // 26 % 26])
        )
        for tid in tids
    ]
    with open_sample(tmp_path, process_record(*tids), *records) as image:
        blocks = AreaMap(image, Records(image.records)).blocks()
        text = build_page(image)
    assert len(blocks) <= 2 * MAX_ALONE + 1
    assert sum(block.areas for block in blocks) == 20_000
    assert len(text) < 1_000_000
    page = check_page(text)
    assert page.counts["tr"] < 1000
    assert any("20,000 areas" in line for line in page.texts)
    assert any("10,000 descriptors" in line for line in page.texts)


def test_phases_are_drawn(tmp_path: Path) -> None:
    timings = Timings(
        before=[Phase("survey", 40_000_000)],
        frozen=[
            *(Phase("stop", 500_000), Phase("areas", 900_000), Phase("pages", 300_000, "areas")),
            *(Phase(MARKUP[:64], 5_000_000), Phase("nothing", 0)),
        ],
    )
    path = tmp_path / "image"
    with ImageWriter.create(str(path)) as writer:
        writer.write_header(HEADER)
        writer.write_records(sample())
        writer.write_timings(timings)
        writer.commit()
    from ckpt.restore import open_image

    with open_image(str(path)) as image:
        text = build_page(image)
    page = check_page(text)
    assert any("stood still for 6.4 ms" in line for line in page.texts)
    # What is a part of another phase is taken off that one: the bar adds up.
    assert "areas: 600 \u00b5s" in text
    assert "pages: 300 \u00b5s" in text


def test_an_image_without_timings_or_process_says_so(tmp_path: Path) -> None:
    with open_sample(tmp_path) as image:
        page = check_page(build_page(image))
    said = " ".join(page.texts)
    assert "does not tell how long" in said and "no process" in said


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page under its name and nothing beside it; JSON; standard output; errors."""
    open_sample(tmp_path, *sample()).close()
    image, output = str(tmp_path / "sample.ckpt"), tmp_path / "page.html"
    assert main(["report", image, "-o", str(output), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {"output": str(output), "bytes": output.stat().st_size}
    assert output.stat().st_mode & 0o777 == 0o600
    assert main(["report", image, "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: {output.stat().st_size} bytes\n"
    assert main(["report", image, "-o", "-"]) == 0
    assert capsys.readouterr().out == output.read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["page.html", "sample.ckpt"]
    assert main(["report", image, "-o", str(tmp_path / "no" / "page.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    damaged.write_bytes(Path(image).read_bytes()[:-1])
    assert main(["report", str(damaged), "-o", str(output)]) == 1
    assert "incomplete" in capsys.readouterr().err


def test_dates_that_no_calendar_has(tmp_path: Path) -> None:
    clocks = msgspec.structs.replace(HEADER.clocks, realtime_ns=1 << 63)
    path = tmp_path / "image"
    with ImageWriter.create(str(path)) as writer:
        writer.write_header(msgspec.structs.replace(HEADER, clocks=clocks))
        writer.commit()
    from ckpt.restore import open_image

    started = time.monotonic()
    with open_image(str(path)) as image:
        check_page(build_page(image))
    assert time.monotonic() - started < 60

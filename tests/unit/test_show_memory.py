"""`show --memory`: where an address leads, how bytes look, what is said where there are none."""

from __future__ import annotations

import ctypes
import json
import os
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.debug.disasm import disasm, iter_disasm
from ckpt.debug.show_memory import (
    c_string,
    disasm_lines,
    head_line,
    hex_lines,
    plain_pieces,
    string_line,
)
from ckpt.debug.show_place import DEFAULT_BYTES, Range, Spot, find_spot, parse_range
from ckpt.debug.stored import Extents
from ckpt.debug.symbols import AddressSpace
from ckpt.errors import CkptError
from ckpt.image.reader import ImageFile, open_image_file
from ckpt.image.writer import ImageWriter
from ckpt.objects import record_types
from ckpt.objects.areas import Area, AreasRecord
from ckpt.objects.base import Record, Records
from ckpt.objects.file_kinds.inode import InodeContent
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.vma_flags import Vm
from tests.unit.planning import process_record
from tests.unit.test_image_samples import HEADER, Pages
from tests.unit.test_show import assert_harmless, libc_area
from tests.unit.test_show_views import Direct

RW = int(Vm.READ | Vm.WRITE)
DATA = 0x5000_0000
GIB = 1 << 30


class Sample:
    """A memory layout with its pages, opened as an address space."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "sample.ckpt")
        self.images: list[ImageFile] = []

    def open(self, layout: AreasRecord, pages: Pages, *more: Record) -> AddressSpace:
        with ImageWriter.create(self.path, 4096) as writer:
            for ref, (pairs, content) in pages.items():
                offset = writer.pages.begin(ref, len(content))
                writer.pages.write_at(offset, content)
                writer.pages.end(ref, array("Q", [part for pair in pairs for part in pair]))
            writer.write_header(msgspec.structs.replace(HEADER, arch=os.uname().machine))
            writer.write_records([process_record(412), layout, *more])
            writer.commit()
        image = open_image_file(self.path, record_types())
        self.images.append(image)
        return AddressSpace(image, Records(image.records))


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[Sample]:
    sample = Sample(tmp_path)
    yield sample
    for image in sample.images:
        image.close()


def page(text: bytes) -> bytes:
    return text.ljust(4096, b"\0")


@pytest.fixture
def space(sample: Sample) -> Iterator[AddressSpace]:
    """Two stored pages with a page that was never touched between, guard pages, and a hole."""
    areas = [Area(DATA, DATA + 8 * GIB, RW, 0), Area(DATA + 9 * GIB, DATA + 10 * GIB, RW, 0)]
    layout = AreasRecord(ref=1, areas=areas, files=[], guards=[(DATA + 4 * GIB, 8192)])
    pages: Pages = {
        1: (
            [(DATA, 4096), (DATA + 8192, 4096)],
            page(bytes(range(48)) + b"text\0") + page(b"\x90" * 64),
        )
    }
    with sample.open(layout, pages) as space:
        yield space


@pytest.mark.parametrize(
    ("text", "place", "size"),
    [
        ("0x1000", "0x1000", DEFAULT_BYTES),
        ("0x1000:16", "0x1000", 16),
        ("4096:0x10", "4096", 16),
        ("main:4k", "main", 4096),
        ("0X1f:010", "0X1f", 10),
        ("libc.so.6:environ", "libc.so.6:environ", DEFAULT_BYTES),
        ("libc.so.6:environ:8", "libc.so.6:environ", 8),
        ("main+0x10:2G", "main+0x10", 2 << 30),
        ("7f289a0eb2ec", "7f289a0eb2ec", DEFAULT_BYTES),
        ("std::swap", "std::swap", DEFAULT_BYTES),
    ],
)
def test_ranges(text: str, place: str, size: int) -> None:
    assert parse_range(text) == Range(place, size)


@pytest.mark.parametrize(
    "text", ["", ":", "main:", ":16", "main:0", "0xzz", "12ab", "10k", "1:99999999999999999g"]
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError):
        parse_range(text)


def spot(space: AddressSpace, text: str) -> Spot:
    return find_spot(space, parse_range(text))


def test_hex_is_that_of_xxd(space: AddressSpace) -> None:
    assert head_line(space, spot(space, f"{DATA:#x}:16")) == (
        "0x50000000: anonymous memory, area 50000000-250000000 rw-p, 16 bytes"
    )
    assert list(hex_lines(space, spot(space, f"{DATA + 16:#x}:37"))) == [
        "000050000010: 1011 1213 1415 1617 1819 1a1b 1c1d 1e1f  ................",
        "000050000020: 2021 2223 2425 2627 2829 2a2b 2c2d 2e2f   !\"#$%&'()*+,-./",
        "000050000030: 7465 7874 00                             text.",
    ]


def test_equal_lines_are_folded_across_pieces(space: AddressSpace) -> None:
    """The zeros at the end of the stored page, and the page behind it that was never touched."""
    assert list(hex_lines(space, Spot(DATA + 48, DATA + 8192 + 80))) == [
        "000050000030: 7465 7874 0000 0000 0000 0000 0000 0000  text............",
        "000050000040: 0000 0000 0000 0000 0000 0000 0000 0000  ................",
        "*",
        "000050002000: 9090 9090 9090 9090 9090 9090 9090 9090  ................",
        "*",
        "000050002040: 0000 0000 0000 0000 0000 0000 0000 0000  ................",
    ]
    assert list(hex_lines(space, Spot(DATA + 1024, DATA + 2048)))[1:] == [
        "*",
        "0000500007f0: 0000 0000 0000 0000 0000 0000 0000 0000  ................",
    ]


def test_gigabytes_of_gaps_are_a_few_lines(space: AddressSpace) -> None:
    lines = list(hex_lines(space, Spot(DATA + 8192, DATA + 12 * GIB)))
    assert [line.partition(": ")[2] for line in lines if line.startswith("--")] == [
        "zeros, never written",
        "guard pages",
        "zeros, never written",
        "not mapped",
        "zeros, never written",
        "not mapped",
    ]
    assert len(lines) < 20
    plain = list(plain_pieces(space, Spot(DATA, DATA + 12 * GIB)))
    assert (plain[0]["start"], plain[-1]["end"]) == (DATA, DATA + 12 * GIB)
    assert all(one["end"] == two["start"] for one, two in pairwise(plain))
    assert sum("hex" in piece for piece in plain) == 2


def test_a_range_ends_with_the_address_space(space: AddressSpace) -> None:
    top = spot(space, "0xffffffffffffffff:16")
    assert (top.start, top.end) == ((1 << 64) - 1, 1 << 64)
    assert list(hex_lines(space, top)) == [
        "-- 0xffffffffffffffff-0x10000000000000000 (1 bytes): not mapped"
    ]
    with pytest.raises(CkptError, match="not a 64-bit address"):
        spot(space, "0x10000000000000000")


def test_strings_are_c(space: AddressSpace) -> None:
    assert string_line(space, Spot(DATA + 48, DATA + 60)) == '"text"'
    assert string_line(space, Spot(DATA + 48, DATA + 50)) == '"te"... no end within 2 bytes'
    assert string_line(space, Spot(DATA + 7, DATA + 15)).startswith(r'"\a\b\t\n\v\f\r\x0e"...')
    assert string_line(space, Spot(5, 10)) == '""... not mapped from 0x5'
    assert c_string('é "x" \\ \u202e\udcff'.encode("utf-8", "surrogateescape")) == (
        r'"é \"x\" \\ \u202e\xff"'
    )


@given(st.binary(max_size=200))
def test_strings_are_harmless(data: bytes) -> None:
    assert_harmless(c_string(data))


def test_instructions_go_on_behind_gaps(space: AddressSpace) -> None:
    lines = list(disasm_lines(space, Spot(DATA + 4094, DATA + 8192 + 2)))
    assert [line.split(":")[0].split()[-1] for line in lines] == [
        "0x50000ffe",
        "KiB)",
        "0x50002000",
        "0x50002001",
    ]
    assert lines[1] == "-- 0x50001000-0x50002000 (4 KiB): zeros, never written"
    assert lines[2].split()[-1] == "nop"


def test_symbols_lead_to_memory(sample: Sample) -> None:
    """By name, by file and name, with an offset; what has no symbol is an error that says so."""
    address = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value or 0
    area, file = libc_area(address)
    layout = AreasRecord(ref=1, areas=[area], files=[file], guards=[])
    name = Path(file.path).name
    with sample.open(layout, {}) as space:
        for text, at in (
            ("getpid", address),
            (f"{name}:getpid", address),
            (f"{file.path}:getpid:4", address),
            ("getpid+0x2", address + 2),
            (f"{name}:getpid-1", address - 1),
            (f"{address:x}", address),
            (f"{address:020}", address),
            ("getpid+010", address + 10),
        ):
            assert spot(space, text).start == at
        found = spot(space, "getpid:4")
        assert f"{name} getpid" in head_line(space, found)
        [piece] = plain_pieces(space, found)
        assert (piece["source"], bytes.fromhex(piece["hex"])) == (
            "file",
            ctypes.string_at(address, 4),
        )
        assert "<getpid>:" in list(disasm_lines(space, found))
        for text in ("no_such_symbol", "libm.so.6:getpid", "getpid*2", "\x1b[2J"):
            with pytest.raises(CkptError, match="no such symbol") as error:
                spot(space, text)
            assert_harmless(str(error.value))


def test_a_file_that_changed_is_said_where_its_bytes_would_stand(
    sample: Sample, tmp_path: Path
) -> None:
    path = tmp_path / "mapped"
    path.write_bytes(b"x" * 5000)
    status = path.stat()
    files = [
        MappedFile(str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns),
        MappedFile(str(path), status.st_dev, status.st_ino, status.st_size, 1),
    ]
    areas = [
        Area(DATA, DATA + 4 * 4096, RW, 0, 0),
        Area(DATA + (1 << 20), DATA + (1 << 20) + 4096, RW, 0, 1),
    ]
    layout = AreasRecord(ref=1, areas=areas, files=files, guards=[])
    with sample.open(layout, {}) as space:
        assert space.read(DATA, 10000) == b"x" * 5000 + bytes(3192)
        pieces = [
            (piece.end - piece.start, piece.source) for piece in space.pieces(DATA, DATA + 16384)
        ]
        assert pieces == [(5000, "file"), (3192, "zeros"), (8192, "behind the end of its file")]
        [piece] = space.pieces(DATA + (1 << 20), DATA + (1 << 20) + 16)
        assert piece.source == "file has changed since the snapshot (size or modification time)"
        assert not piece.is_known


def test_shared_memory_is_read_from_its_object(sample: Sample) -> None:
    """Pages of the object, the tail behind its last whole page, and holes."""
    content = InodeContent(
        ref=9, kind="shmem", name=b"", ino=1, size=3 * 4096 + 5, mode=0o600, uid=0, gid=0,
        mtime_ns=0, seals=0, has_pages=True, tail=b"tail!",
    )  # fmt: skip
    file = MappedFile("/dev/zero (deleted)", 0, 0, content.size, 0, b"", 9)
    flags = RW | Vm.SHARED | Vm.MAYSHARE
    layout = AreasRecord(
        ref=1, areas=[Area(DATA, DATA + 4 * 4096, flags, 0, 0)], files=[file], guards=[]
    )
    with sample.open(layout, {9: ([(4096, 4096)], page(b"shared"))}, content) as space:
        assert space.read(DATA, 16384) == page(b"") + page(b"shared") + page(b"") + page(b"tail!")
        assert space.read(DATA + 3 * 4096 + 2, 2) == b"il"
        assert space.stored_bytes(space.areas[0]) == 4096 + 5


def test_bytes_of_an_image_that_shrank_are_not_made_up(sample: Sample) -> None:
    """The image is cut while it is shown: what is missing is said."""
    layout = AreasRecord(ref=1, areas=[Area(DATA, DATA + 4096, RW, 0)], files=[], guards=[])
    with sample.open(layout, {1: ([(DATA, 4096)], page(b"x"))}) as space:
        os.truncate(sample.path, 4096)
        assert space.read(DATA, 16) == b""
        assert [line.partition(": ")[2] for line in hex_lines(space, Spot(DATA, DATA + 16))] == [
            "not read"
        ]
        assert string_line(space, Spot(DATA, DATA + 16)) == '""... not readable'
        assert json.dumps(list(plain_pieces(space, Spot(DATA, DATA + 16))))


EXTENTS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 5)).map(
        lambda pair: (pair[0] * 4096, pair[1] * 4096)
    ),
    max_size=8,
)


@given(EXTENTS, st.integers(0, 100_000), st.integers(0, 100_000))
def test_extents_count_what_they_hold(gaps: list[tuple[int, int]], start: int, end: int) -> None:
    """Against a set of pages: what is stored, and where."""
    flat, stored, at, place = array("Q"), {}, 0, 1000
    for gap, length in gaps:
        at += gap
        flat.extend((at, length))
        stored.update({at + byte: place + byte for byte in range(0, length, 512)})
        at, place = at + length, place + length
    extents = Extents(flat, 1000)
    start, end = start - start % 512, end - end % 512
    inside = [byte for byte in stored if start <= byte < end]
    assert extents.total_within(start, end) == len(inside) * 512
    if start < end:
        size, where = extents.find(start, end)
        assert (size > 0) == (start in stored)
        assert size <= 0 or where == stored[start]
        limit = start + abs(size)
        run = range(start, limit, 512)
        assert all((byte in stored) == (size > 0) for byte in run)
        assert limit == end or (limit in stored) != (size > 0) or limit in set(flat[0::2])


@pytest.fixture
def code(sample: Sample) -> Iterator[AddressSpace]:
    """push rbp; mov rbp, rsp; mov eax, 7; syscall; a byte that is nothing; ret."""
    content = bytes.fromhex("554889e5b8070000000f0506c3")
    flags = int(Vm.READ | Vm.EXEC)
    layout = AreasRecord(ref=1, areas=[Area(DATA, DATA + 4096, flags, 0)], files=[], guards=[])
    with sample.open(layout, {1: ([(DATA, 4096)], content.ljust(4096, b"\xcc"))}) as space:
        yield space


def test_instructions_around_an_address(code: AddressSpace) -> None:
    lines = disasm(code, DATA + 11, 3, 2)
    assert [(line.address - DATA, line.text) for line in lines] == [
        (1, "mov rbp, rsp"),
        (4, "mov eax, 7"),
        (9, "syscall"),
        (11, "(bad)"),
        (12, "ret"),
        (13, "int3"),
    ]
    assert lines[3].render(DATA + 11).startswith("=> 0x5000000b:")
    assert [line.address for line in disasm(code, DATA, 3, 0)] == [DATA]
    assert disasm(code, 0, 4, 4) == disasm(code, (1 << 64) - 1, 4, 4) == []


def test_instructions_end_where_memory_does(code: AddressSpace) -> None:
    lines = list(iter_disasm(code, DATA + 4096 - 3, DATA + 8192))
    assert [line.address - DATA for line in lines] == [4093, 4094, 4095]
    whole = list(iter_disasm(code, DATA, DATA + 4096))
    assert whole[-1].address == DATA + 4095
    assert b"".join(line.code for line in whole) == code.read(DATA, 4096)


NUMBER = st.one_of(
    st.integers(0, 40).map(lambda n: n * 4096),
    st.sampled_from((-1, -4096, 1, 5000, 1 << 63, (1 << 64) - 1, 1 << 70)),
)
AREA = st.builds(
    Area,
    NUMBER,
    NUMBER,
    st.just(RW),
    NUMBER,
    st.integers(-1, 3),
    special=st.sampled_from((b"", b"[vdso]", b"[vvar]")),
)


@given(
    st.lists(AREA, max_size=6),
    st.lists(st.tuples(NUMBER, NUMBER), max_size=4),
    st.tuples(NUMBER, st.binary(max_size=4095)),
    st.tuples(NUMBER, NUMBER),
)
def test_pieces_cover_every_range_of_every_layout(
    areas: list[Area], guards: list[tuple[int, int]], held: tuple[int, bytes], wanted: Any
) -> None:
    """No hole, no overlap, no end missed, whatever an image claims."""
    files = [
        MappedFile("/dev/zero", 0, 0, 8192, 0, b"", 9),
        MappedFile("/nowhere", 0, 0, 8192, 0),
        MappedFile("/dev/zero", 0, 0, 8192, 0, b"", 77),
    ]
    size, tail = held
    content = InodeContent(
        ref=9, kind="shmem", name=b"", ino=1, size=size, mode=0o600, uid=0, gid=0, mtime_ns=0,
        seals=0, has_pages=False, tail=tail,
    )  # fmt: skip
    layout = AreasRecord(ref=1, areas=areas, files=files, guards=guards)
    found = [process_record(412), layout, content]
    start, end = wanted
    with AddressSpace(cast("ImageFile", Direct(found)), Records(found)) as space:
        at = max(start, 0)
        for count, piece in enumerate(space.pieces(start, end)):
            assert piece.start == at < piece.end <= min(end, 1 << 64)
            assert count < 200
            at = piece.end
            if piece.end - piece.start < 1 << 20:
                assert len(space.read_piece(piece)) <= piece.end - piece.start
        assert at >= min(end, 1 << 64)

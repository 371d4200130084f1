"""Files that are not whole images: each is refused by name, quickly, and without a traceback."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.errors import ImageError
from ckpt.image.errors import (
    ImageCorruptError,
    ImageFailedError,
    ImageIncompleteError,
    ImageVersionError,
)
from ckpt.image.format import FRAME, FrameType, checksum, encode_frame
from ckpt.image.header import encode_header
from ckpt.image.reader import open_image_file
from ckpt.image.tail import PageObject
from tests.unit.test_image_samples import (
    HEADER,
    TYPES,
    Areas,
    Forge,
    Task,
    check_bytes,
    flat,
    open_bytes,
    write_image,
)

RECORDS = [Task(tid=1, comm="sleep", regs=b"\x01" * 9), Areas(ref=2, areas=[(1, 2)])]
TWO_PAGES = {
    3: ([(0x40_0000, 4096)], b"\x55" * 4096),
    4: ([(0, 4096)], bytes(range(256)) * 16),
}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_image(tmp_path_factory.mktemp("image") / "a.ckpt", RECORDS, TWO_PAGES)


def check_fd(fd: int) -> None:
    with open_image_file(fd, TYPES, arch="x86_64") as image_file:
        image_file.verify_pages()


def test_truncated_at_every_byte(image: bytes) -> None:
    fd = os.memfd_create("truncated")
    os.write(fd, image)
    check_fd(fd)
    for length in range(len(image) - 1, -1, -1):
        os.ftruncate(fd, length)
        with pytest.raises(ImageIncompleteError) as caught:
            check_fd(fd)
        assert caught.value.what.startswith(("incomplete", "empty")), length
    os.close(fd)


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_byte_flipped(image: bytes, flip: int) -> None:
    fd = os.memfd_create("flipped")
    os.write(fd, image)
    unnoticed = []
    for offset, byte in enumerate(image):
        os.pwrite(fd, bytes([byte ^ flip]), offset)
        try:
            check_fd(fd)
            unnoticed.append(offset)
        except ImageError:
            pass
        os.pwrite(fd, bytes([byte]), offset)
    check_fd(fd)
    os.close(fd)
    assert unnoticed == []


def test_a_flipped_page_is_named(image: bytes) -> None:
    at = image.index(b"\x55" * 64)
    bad = image[:at] + b"\x54" + image[at + 1 :]
    with open_bytes(bad) as image_file:
        (error,) = image_file.find_bad_pages()
        states = {row.state for row in image_file.iter_frames() if row.name == "pages"}
    assert isinstance(error, ImageCorruptError)
    assert error.what == "pages of object 3 do not match their checksum"
    assert states == {"good", "bad"}


@given(st.binary(max_size=300))
def test_garbage(data: bytes) -> None:
    with pytest.raises(ImageError):
        check_bytes(data)


@given(st.sampled_from(FrameType), st.binary(max_size=200))
def test_garbage_in_a_frame_whose_checksum_is_right(frame_type: FrameType, data: bytes) -> None:
    with pytest.raises(ImageError):
        check_bytes(Forge().add(frame_type, data).finish() + b"\x00")


@given(st.data())
def test_damaged_tail_whose_checksum_is_right(data: st.DataObject) -> None:
    forge = Forge().add_record(RECORDS[0]).add_pages(3, *TWO_PAGES[3]).add_pages(4, *TWO_PAGES[4])
    tail = bytearray(forge.tail())
    at = data.draw(st.integers(0, len(tail) - 1))
    tail[at] ^= data.draw(st.integers(1, 255))
    damaged = forge.data + encode_frame(FrameType.TAIL, bytes(tail))
    # Objrefs and addresses are free to be anything that is aligned and in order.
    try:
        check_bytes(damaged)
    except ImageCorruptError:
        return
    free = len(tail) - 32 - 64
    assert at >= free


@pytest.mark.parametrize(
    ("data", "error", "what"),
    [
        (b"", ImageIncompleteError, "empty file"),
        (b"\x7fELF" + bytes(60), ImageCorruptError, "not a ckpt-bpf image"),
        (Forge(b"other").finish(), ImageCorruptError, "no magic"),
        (Forge(b"ckpt-bpf" + struct.pack("<II", 9, 0)).finish(), ImageVersionError, "version 9"),
        (Forge(encode_header(HEADER)[:-3]).finish(), ImageCorruptError, "header does not decode"),
        (Forge().finish() + b"\x00", ImageCorruptError, "1 bytes after the tail"),
        (Forge().finish() * 2, ImageCorruptError, "bytes after the tail"),
        (Forge().data, ImageIncompleteError, "no tail"),
        (Forge().add(FrameType.HEADER, b"").finish(), ImageCorruptError, "second header"),
        (Forge().add(0x21212121, b"").finish(), ImageVersionError, "0x21212121"),
        (Forge().add(0x21212121, b"", flags=3).finish(), ImageVersionError, "flags 0x3"),
        (Forge().add(FrameType.RECORD, b"", flags=1).finish(), ImageVersionError, "flags 0x1"),
        (Forge().add(FrameType.RECORD, b"\x80").finish(), ImageCorruptError, "does not decode"),
        (Forge().add(FrameType.PADDING, b"\x01").finish(), ImageCorruptError, "padding is not"),
        (Forge().add(FrameType.PADDING, b"1", end=b"1234567").finish(), ImageCorruptError, "zero"),
        (Forge().add(FrameType.PADDING, bytes(5000)).finish(), ImageCorruptError, "5000 bytes"),
        (Forge().add(FrameType.PAGES, bytes(8)).finish(), ImageCorruptError, "multiple of 4096"),
        (Forge().add(FrameType.ERROR, b"no\x1b[2J").data, ImageFailedError, r"no\x1b[2J"),
        (encode_frame(FrameType.ERROR, b"frozen"), ImageFailedError, "frozen"),
        (Forge().add_record({"t": "\x1b[2J"}).finish(), ImageCorruptError, r"\x1b[2J"),
        (Forge().add_record({"t": "Task", "tid": 1, "z": 1}).finish(), ImageCorruptError, "`z`"),
        (
            Forge().add_record({"t": "Task", "tid": "1"}).finish(),
            ImageCorruptError,
            "Expected `int`",
        ),
    ],
)
def test_each_fault_has_its_message(data: bytes, error: type[ImageError], what: str) -> None:
    with pytest.raises(error) as caught:
        check_bytes(data)
    assert what in caught.value.what
    assert str(caught.value).isprintable()


def test_an_optional_frame_of_a_later_version_is_skipped() -> None:
    forge = Forge().add(0x21212121, b"later", flags=1).add_record(RECORDS[0])
    with open_bytes(forge.finish()) as image_file:
        assert image_file.records == RECORDS[:1]
        assert [row.name for row in image_file.iter_frames()][1] == "0x21212121"


def test_other_architecture() -> None:
    header = encode_header(msgspec.structs.replace(HEADER, arch="\x1briscv"))
    with pytest.raises(ImageVersionError, match=r"architecture \\x1briscv, this machine is x86_64"):
        check_bytes(Forge(header).finish())


@pytest.mark.parametrize("page_size", [0, 1, 4095, 12288, 1 << 40, -4096])
def test_impossible_page_size(page_size: int) -> None:
    header = encode_header(msgspec.structs.replace(HEADER, page_size=page_size))
    with pytest.raises(ImageCorruptError, match="page size"):
        check_bytes(Forge(header).finish())


@pytest.mark.parametrize(
    ("pairs", "what"),
    [
        ([(0, 4096)], "cover 4096 bytes of 8192"),
        ([(0, 4096), (4096, 8192)], "cover 12288 bytes of 8192"),
        ([(0, 8192), (4096, 0)], "is empty"),
        ([(4096, 4096), (0, 4096)], "out of order"),
        ([(0, 4096), (0, 4096)], "overlap"),
        ([(0, 4097), (8192, 4095)], "not page aligned"),
        ([(1, 8192)], "not page aligned"),
        ([((1 << 64) - 4096, 8192)], "beyond the address space"),
        ([(1 << 63, 8192)], "beyond the address space"),
    ],
)
def test_extents_that_cannot_be(pairs: list[tuple[int, int]], what: str) -> None:
    with pytest.raises(ImageCorruptError, match=what):
        check_bytes(Forge().add_pages(1, pairs, bytes(8192)).finish())


def test_a_fault_in_a_later_chunk_of_extents() -> None:
    pairs = [(number * 8192, 4096) for number in range(70_000)]
    pairs[65_536] = pairs[65_535]
    forge = Forge().add_pages(1, [(0, 4096)], bytes(4096))
    forge.objects[0] = forge.objects[0]._replace(extents=flat(pairs))
    with pytest.raises(ImageCorruptError, match="overlap"):
        check_bytes(forge.finish())


def test_index_that_does_not_match_the_pages() -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"file_offset": 1 << 40},
        {"file_offset": 0},
        {"length_bytes": 8192},
    )
    for change in changes:
        forge = Forge().add_pages(1, [(0, 4096)], bytes(4096))
        forge.objects[0] = forge.objects[0]._replace(**change)
        with pytest.raises(ImageCorruptError, match="does not point at its pages"):
            check_bytes(forge.finish())


def test_page_objects_twice_or_too_many() -> None:
    forge = Forge().add_pages(1, [(0, 4096)], bytes(4096)).add_pages(1, [(0, 4096)], bytes(4096))
    with pytest.raises(ImageCorruptError, match="object 1 is there twice"):
        check_bytes(forge.finish())
    forge = Forge()
    forge.objects.append(PageObject(1, 4096, 4096, flat([(0, 4096)])))
    with pytest.raises(ImageCorruptError, match="1 page objects, the image has 0"):
        check_bytes(forge.finish())


@pytest.mark.parametrize("length", [(1 << 64) - 1, 1 << 63, 1 << 47, (256 << 20) + 1, 200 << 20])
@pytest.mark.parametrize("frame_type", list(FrameType))
def test_length_bombs(frame_type: FrameType, length: int) -> None:
    data = Forge().data + FRAME.pack(frame_type, 0, length, 0)
    with pytest.raises(ImageError):
        check_bytes(data)


def test_tail_numbers_that_would_not_fit_anywhere() -> None:
    for numbers in ((1 << 63, 0, 0), (0, 1 << 60, 0), (0, 0, 1 << 60), (1 << 60, 1 << 60, 1 << 60)):
        tail = struct.pack("<5Q", 0, 0, *numbers)
        with pytest.raises(ImageCorruptError, match="does not have the length"):
            check_bytes(Forge().data + encode_frame(FrameType.TAIL, tail))


@pytest.mark.parametrize("size", [1 << 40, 1 << 43])
def test_a_sparse_file_does_not_make_verify_run_for_hours(tmp_path: Path, size: int) -> None:
    path = tmp_path / "sparse.ckpt"
    path.write_bytes(Forge().data + FRAME.pack(FrameType.PAGES, 0, size, 0))
    os.truncate(path, size)
    with pytest.raises(ImageCorruptError, match="the disk holds only"):
        open_image_file(str(path), TYPES, arch="x86_64")


_BOMB = """
import resource, sys
from tests.unit.test_image_samples import Forge, check_bytes
from ckpt.errors import ImageError
from ckpt.image.format import FrameType
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
nested = b"\\x82\\xa1t\\xa5Areas\\xa5areas" + b"\\xdd\\x3f\\xff\\xff\\xff" * 1000
for payload in (
    nested,
    b"\\x82\\xa1t\\xa5Areas\\xa7options\\xdf\\x3f\\xff\\xff\\xff",
    b"\\x82\\xa1t\\xa4Task\\xa4regs\\xc6\\xff\\xff\\xff\\xff",
    b"\\x82\\xa1t\\xa4Task\\xa4comm\\xdb\\xff\\xff\\xff\\xff",
    b"\\x82\\xa1t\\xa4Task\\xa1z" + b"\\x91" * 1000000,
    b"\\xdd\\xff\\xff\\xff\\xff",
):
    try:
        check_bytes(Forge().add(FrameType.RECORD, payload).finish())
    except ImageError as error:
        assert "does not decode" in error.what, error
    else:
        sys.exit("not refused")
"""


def test_msgpack_bombs_in_little_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", _BOMB], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_file_that_shrinks_while_it_is_read(image: bytes) -> None:
    fd = os.memfd_create("shrinks")
    os.write(fd, image)
    with open_image_file(fd, TYPES, arch="x86_64") as image_file:
        os.ftruncate(fd, 5000)
        errors = list(image_file.find_bad_pages())
    os.close(fd)
    assert len(errors) == 2


def test_checksum_is_xxh3_64() -> None:
    # The value of the reference implementation for an empty input (xxHash, XXH3_64bits).
    assert checksum(b"") == 0x2D06800538D394C2

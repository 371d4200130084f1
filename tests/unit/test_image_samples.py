"""Sample records, pages and images that the other image tests are made from."""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Any

import msgspec

from ckpt.image.format import FRAME, FrameType, checksum, encode_frame
from ckpt.image.header import Clocks, Header, encode_header
from ckpt.image.reader import ImageFile, open_image_file
from ckpt.image.tail import PageObject, build_tail
from ckpt.image.writer import ImageWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="t"):
    tid: int
    comm: str = ""
    regs: bytes = b""


class Areas(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="t"):
    ref: int
    areas: list[tuple[int, int]] = []
    options: dict[str, int] = {}


TYPES = (Task, Areas)
HEADER = Header(
    arch="x86_64",
    page_size=4096,
    kernel_release="6.18.0",
    kernel_version="#1 SMP",
    machine="x86_64",
    vdso_hash="ab" * 16,
    boot_id="0c0ffee0-0000-4000-8000-000000000000",
    clocks=Clocks(monotonic_ns=1, boottime_ns=2, realtime_ns=3),
    options={"leave_running": True, "timeout_s": 30.0, "deadline_s": None},
    constants={"xfeatures": 0x2E7},
    tool_version="0.1.0",
)

Pages = dict[int, tuple[list[tuple[int, int]], bytes]]
"""objref -> (pairs of start and length, their bytes)."""


def flat(pairs: Iterable[tuple[int, int]]) -> array[int]:
    return array("Q", [number for pair in pairs for number in pair])


def write_all(writer: ImageWriter, records: Sequence[Any], pages: Pages) -> None:
    for ref, (pairs, content) in pages.items():
        offset = writer.pages.begin(ref, len(content))
        writer.pages.write_at(offset, content)
        writer.pages.end(ref, flat(pairs))
    writer.write_header(HEADER)
    writer.write_records(records)
    writer.commit()


def write_image(path: Path, records: Sequence[Any] = (), pages: Pages | None = None) -> bytes:
    with ImageWriter.create(str(path)) as writer:
        write_all(writer, records, pages or {})
    return path.read_bytes()


def read_pages(image: ImageFile) -> Pages:
    """Read the pages back, as they were given to write_image."""
    return {
        ref: (
            list(zip(item.extents[0::2], item.extents[1::2], strict=True)),
            os.pread(image.fd, item.length_bytes, item.file_offset),
        )
        for ref, item in image.pages.items()
    }


def open_bytes(data: bytes, **options: Any) -> ImageFile:
    """Open an image that is only in memory; the image owns its own descriptor."""
    fd = os.memfd_create("image")
    try:
        os.write(fd, data)
        return open_image_file(fd, TYPES, arch="x86_64", **options)
    finally:
        os.close(fd)


def check_bytes(data: bytes) -> None:
    """Open and verify, as `ckpt-bpf verify` does."""
    with open_bytes(data) as image:
        image.verify_pages()


class Forge:
    """Builds images by hand: every checksum right, everything else as wrong as a test wants."""

    def __init__(self, header: bytes | None = None) -> None:
        self.data = b""
        self.heads: list[bytes] = []
        self.objects: list[PageObject] = []
        self.add(FrameType.HEADER, encode_header(HEADER) if header is None else header)

    def add(self, frame_type: int, payload: bytes, flags: int = 0, end: bytes = b"") -> Forge:
        head = FRAME.pack(frame_type, flags, len(payload), checksum(payload))
        self.heads.append(head)
        self.data += head + payload + (end or bytes(-len(payload) % 8))
        return self

    def add_record(self, record: Any) -> Forge:
        return self.add(FrameType.RECORD, msgspec.msgpack.encode(record))

    def add_pages(self, ref: int, pairs: list[tuple[int, int]], content: bytes) -> Forge:
        gap = -(len(self.data) + FRAME.size) % 4096
        self.add(FrameType.PADDING, bytes((gap + 4096 if gap < FRAME.size else gap) - FRAME.size))
        offset = len(self.data) + FRAME.size
        self.objects.append(PageObject(ref, offset, len(content), flat(pairs)))
        return self.add(FrameType.PAGES, content)

    def counts(self) -> dict[int, int]:
        types = [FRAME.unpack(head)[0] for head in self.heads]
        return {frame_type: types.count(frame_type) for frame_type in types}

    def tail(self) -> bytes:
        digest = checksum(b"".join(self.heads))
        pieces = build_tail(len(self.data), digest, self.counts(), self.objects)
        return b"".join(map(bytes, pieces))

    def finish(self) -> bytes:
        return self.data + encode_frame(FrameType.TAIL, self.tail())


def test_a_forged_image_without_fault_is_an_image() -> None:
    forge = Forge().add_record(Task(tid=4)).add_pages(9, [(0x1000, 4096)], b"x" * 4096)
    with open_bytes(forge.finish()) as image:
        assert image.records == [Task(tid=4)]
        assert read_pages(image) == {9: ([(0x1000, 4096)], b"x" * 4096)}
        image.verify_pages()

"""Writes an image: pages while the target is frozen, everything else after the thaw.

    with ImageWriter.create("412.ckpt") as writer:
        writer.preallocate(expected_bytes)     # target runs: a full disk shows here
        writer.pages.store(ref, mem_fd, extents)     # target frozen
        writer.write_header(header); writer.write_records(records)     # target runs again
        writer.commit()

Leaving the block without `commit`, by an error too, leaves nothing behind.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
from xxhash import xxh3_64

from ckpt.errors import ImageWriteError
from ckpt.image.flush import BackgroundFlush
from ckpt.image.format import (
    FRAME,
    MAX_ERROR_BYTES,
    MAX_FRAMES,
    MAX_HEADER_BYTES,
    MAX_PAGES_BYTES,
    MAX_RECORD_BYTES,
    MAX_RECORDS_BYTES,
    MAX_TAIL_BYTES,
    PAGES_ALIGN,
    FrameFlag,
    FrameType,
    checksum,
    encode_frame,
    encode_gap,
    gap_before_pages,
    padding_bytes,
)
from ckpt.image.gather import BUFFER_BYTES
from ckpt.image.header import Header, encode_header
from ckpt.image.output import FileOutput, StreamOutput
from ckpt.image.sink import Advance, PageSink, hash_range, write_all
from ckpt.image.tail import PageObject, build_tail
from ckpt.image.timings import encode_timings

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable
    from typing import Self

    from ckpt.image.output import Output, Progress
    from ckpt.image.timings import Timings

HEADER_REGION: Final = PAGES_ALIGN - FRAME.size
"""Header frame and padding fill this, so a pages frame right after it is aligned by itself."""

_FLUSH_BYTES: Final = 1 << 20


class ImageWriter:
    """One image being written. `pages` takes memory, the other methods everything else."""

    def __init__(self, output: Output, page_size: int) -> None:
        """Write to `output`; use `create` or `to_stream`."""
        self.pages = PageSink(output.fd, output.path, self._reserve_pages, page_size)
        self._output = output
        self._encoder = msgspec.msgpack.Encoder(order="deterministic")
        self._end = HEADER_REGION
        self._pending = bytearray()
        """Frames that end at `_end` and are not yet written."""
        self._front: list[bytes] = []
        """The frame headers in the region at the front: header and padding."""
        self._frames: list[bytes] = []
        """The headers of all later frames, in order."""
        self._pages_at: dict[int, int] = {}
        """Payload offset of a pages frame -> its index in `_frames`."""
        self._counts: dict[int, int] = {}
        self._record_bytes = 0

    @classmethod
    def create(cls, path: str, page_size: int | None = None) -> Self:
        """Begin an image that will stand at `path` after `commit`; ImageWriteError if it cannot."""
        return cls(FileOutput(path), page_size or os.sysconf("SC_PAGE_SIZE"))

    @classmethod
    def to_stream(
        cls, fd: int, stall_timeout_s: float = 30.0, page_size: int | None = None
    ) -> Self:
        """Begin an image that `commit` copies to `fd`, which stays open and the caller's."""
        output = StreamOutput(fd, stall_timeout_s)
        return cls(output, page_size or os.sysconf("SC_PAGE_SIZE"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    @property
    def path(self) -> str:
        """Return the final path, `-` for a stream."""
        return self._output.path

    @property
    def size_bytes(self) -> int:
        """Return the length of the image so far; of all of it after `commit`."""
        return self._end

    def preallocate(self, pages_bytes: int, *, prefault: bool = False) -> None:
        """Take the disk space for `pages_bytes` of pages now, while the target still runs.

        With `prefault` the page cache is filled as well, so that the frozen time is a plain copy.
        Raises ImageWriteError when there is not that much room.
        """
        length = PAGES_ALIGN + pages_bytes
        try:
            os.posix_fallocate(self._output.fd, 0, length)
        except OSError as error:
            what = f"no room for {length} bytes"
            raise ImageWriteError(what, path=self.path, errno=error.errno) from error
        if prefault:
            zeros = bytes(BUFFER_BYTES)
            for offset in range(0, length, BUFFER_BYTES):
                part = memoryview(zeros)[: length - offset]
                write_all(self._output.fd, part, offset, self.path)

    def write_header(self, header: Header) -> None:
        """Set the header; at any time before `commit`, once."""
        if self._front:
            raise ValueError("the header is written twice")
        payload = encode_header(header)
        if len(payload) > MAX_HEADER_BYTES:
            raise ImageWriteError(f"header of {len(payload)} bytes is too long", path=self.path)
        frame = encode_frame(FrameType.HEADER, payload)
        gap = encode_gap(HEADER_REGION - len(frame))
        self._front = [frame[: FRAME.size], gap[: FRAME.size]]
        write_all(self._output.fd, frame + gap, 0, self.path)

    def write_record(self, record: msgspec.Struct) -> None:
        """Append one record."""
        payload = self._encoder.encode(record)
        self._record_bytes += len(payload)
        if len(payload) > MAX_RECORD_BYTES or self._record_bytes > MAX_RECORDS_BYTES:
            what = f"{type(record).__name__}: {len(payload)} bytes are more than a record may have"
            raise ImageWriteError(what, path=self.path)
        self._append(encode_frame(FrameType.RECORD, payload), FrameType.RECORD)

    def write_records(self, records: Iterable[msgspec.Struct]) -> None:
        """Append records in this order."""
        for record in records:
            self.write_record(record)

    def write_timings(self, timings: Timings) -> None:
        """Append what the snapshot spent its time on."""
        frame = encode_frame(FrameType.TIMINGS, encode_timings(timings), FrameFlag.OPTIONAL)
        self._append(frame, FrameType.TIMINGS)

    def commit(self, progress: Progress | None = None) -> None:
        """Checksum the pages, write the tail, make the image visible.

        Call it after the thaw: it reads all pages back, and waits for the disk or the stream's
        reader. On any failure nothing is left behind; ImageWriteError says why.
        """
        if not self._front:
            raise ValueError("commit without header")
        self.pages.check()
        try:
            self._finish(progress)
            self._output.publish(progress)
        finally:
            self._output.discard()

    def publish_failure(self, what: str) -> None:
        """Tell the reader of a stream why there is no image; a file is just dropped."""
        try:
            # Behind a part of an image, in a stream that failed, nobody would find it.
            if isinstance(self._output, StreamOutput) and self._output.fd >= 0:
                text = what.encode("utf-8", "replace")[:MAX_ERROR_BYTES]
                os.ftruncate(self._output.fd, 0)
                write_all(self._output.fd, encode_frame(FrameType.ERROR, text), 0, self.path)
                self._output.publish(None)
        finally:
            self._output.discard()

    def abort(self) -> None:
        """Leave nothing behind. Does nothing after `commit`."""
        self._output.discard()

    def _append(self, frame: bytes, frame_type: FrameType) -> None:
        if len(self._frames) >= MAX_FRAMES - 4:
            raise ImageWriteError("more records than an image may have", path=self.path)
        self._frames.append(frame[: FRAME.size])
        self._counts[frame_type] = self._counts.get(frame_type, 0) + 1
        self._pending += frame
        self._end += len(frame)
        if len(self._pending) >= _FLUSH_BYTES:
            self._write_pending()

    def _write_pending(self) -> None:
        if self._pending:
            offset = self._end - len(self._pending)
            write_all(self._output.fd, self._pending, offset, self.path)
            self._pending = bytearray()

    def _reserve_pages(self, length: int) -> int:
        if length > MAX_PAGES_BYTES:
            raise ImageWriteError(f"{length} bytes of pages in one object", path=self.path)
        gap = encode_gap(gap_before_pages(self._end))
        if gap:
            self._append(gap, FrameType.PADDING)
        # The frame header is written by _hash_pages, when the checksum is known.
        self._append(bytes(FRAME.size), FrameType.PAGES)
        self._write_pending()
        offset = self._end
        self._pages_at[offset] = len(self._frames) - 1
        self._end += length
        return offset

    def _finish(self, progress: Progress | None) -> None:
        pages_bytes = sum(item.length_bytes for item in self._objects())
        flush = BackgroundFlush(self._output.fd, pages_bytes if self._output.is_durable else 0)
        try:
            self._hash_pages(progress)
            self._write_tail()
            self._cut()
        finally:
            flush.wait(self.path)

    def _cut(self) -> None:
        # `preallocate` may have taken more than was needed.
        try:
            os.ftruncate(self._output.fd, self._end)
        except OSError as error:
            raise ImageWriteError("cannot cut", path=self.path, errno=error.errno) from error

    def _objects(self) -> list[PageObject]:
        return sorted(self.pages.objects.values(), key=lambda item: item.file_offset)

    def _hash_pages(self, progress: Progress | None) -> None:
        objects = self._objects()
        advance = Advance(sum(item.length_bytes for item in objects), progress)
        fd = self._output.fd
        for item in objects:
            digest = hash_range(fd, self.path, item.file_offset, item.length_bytes, advance)
            if digest is None:
                raise ImageWriteError("pages are missing at the end of the file", path=self.path)
            head = FRAME.pack(FrameType.PAGES, 0, item.length_bytes, digest)
            self._frames[self._pages_at[item.file_offset]] = head
            write_all(fd, head, item.file_offset - FRAME.size, self.path)

    def _write_tail(self) -> None:
        self._write_pending()
        counts = dict(self._counts)
        for frame_type in (FrameType.HEADER, FrameType.PADDING):
            counts[frame_type] = counts.get(frame_type, 0) + 1
        heads = b"".join([*self._front, *self._frames])
        payload = build_tail(self._end, checksum(heads), counts, self._objects())
        self._write_tail_frame(payload)

    def _write_tail_frame(self, pieces: list[bytes | array[int]]) -> None:
        views = [memoryview(piece).cast("B") for piece in pieces]
        length = sum(map(len, views))
        if length > MAX_TAIL_BYTES:
            raise ImageWriteError("more extents than an image may have", path=self.path)
        digest = xxh3_64()
        for view in views:
            digest.update(view)
        head = FRAME.pack(FrameType.TAIL, 0, length, digest.intdigest())
        for view in (memoryview(head), *views, memoryview(bytes(padding_bytes(length)))):
            write_all(self._output.fd, view, self._end, self.path)
            self._end += len(view)

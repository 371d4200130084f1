"""Reads an image, which is untrusted input: every byte is checked before it means anything.

`open_image_file` checks all but the contents of pages; `ImageFile.verify_pages` checks those, on
another thread if the caller likes, while they are already being read.
"""

from __future__ import annotations

import operator
import os
import threading
from functools import reduce
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from ckpt.errors import ImageError
from ckpt.image.errors import ImageCorruptError, ImageFailedError, quoted
from ckpt.image.extents import find_fault
from ckpt.image.format import (
    FRAME,
    MAX_RECORDS_BYTES,
    Frame,
    FrameType,
    checksum,
    type_name,
)
from ckpt.image.header import Header, decode_header
from ckpt.image.sink import Advance, hash_range
from ckpt.image.source import Source, open_source
from ckpt.image.tail import PageObject, Tail, parse_tail
from ckpt.image.timings import MAX_TIMINGS_BYTES, Timings, decode_timings
from ckpt.image.walk import walk_frames

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence
    from typing import Self

    from ckpt.image.output import Progress

_RECORD: Final = int(FrameType.RECORD)
_NO_DECODE: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
"""What msgspec raises for hostile input (UnicodeDecodeError is a ValueError)."""


class FrameRow(NamedTuple):
    """One frame, for people."""

    name: str
    offset: int
    length: int
    state: str
    """`good`, `bad` or `unchecked` (pages, until `verify_pages`)."""


class ImageFile:
    """An open image whose structure has been checked. Made by `open_image_file`."""

    def __init__(
        self,
        source: Source,
        header: Header,
        records: list[Any],
        frames: list[Frame],
        tail: Tail,
        timings: Timings | None = None,
    ) -> None:
        """Take over `source`."""
        self.path = source.path
        self.status = source.status
        self.header = header
        self.records = records
        """In the order in which they were written."""
        self.pages = {item.ref: item for item in tail.objects}
        """The page objects by objref, in file order."""
        self.frames = frames
        self.timings = timings
        """What the snapshot spent its time on; None: the image does not tell."""
        self._source = source
        self._states: dict[int, str] = {}

    @property
    def fd(self) -> int:
        """Return the descriptor to read pages from, at `PageObject.file_offset`."""
        return self._source.fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._source.close()

    def page_extents(self, ref: int) -> tuple[array[int], int]:
        """Return the extents of object `ref` and the file offset of their bytes; KeyError."""
        item = self.pages[ref]
        return item.extents, item.file_offset

    def verify_pages(self, progress: Progress | None = None) -> None:
        """Check the contents of all pages; raises the first ImageError."""
        for error in self.find_bad_pages(progress):
            raise error

    def checking_pages(self) -> BackgroundCheck:
        """Check the contents of all pages on the other core, while a `with` block runs."""
        return BackgroundCheck(self)

    def find_bad_pages(self, progress: Progress | None = None) -> Iterator[ImageError]:
        """Check the contents of all pages, yielding an error for each object that is damaged.

        Memory is bounded by a buffer of 1 MiB; other threads run while it reads and hashes.
        """
        frames = [frame for frame in self.frames if frame.type == FrameType.PAGES]
        advance = Advance(sum(frame.length for frame in frames), progress)
        for frame, ref in zip(frames, self.pages, strict=True):
            error = self._check_pages(frame, ref, advance)
            self._states[frame.offset] = "bad" if error else "good"
            if error:
                yield error

    def _check_pages(self, frame: Frame, ref: int, advance: Advance) -> ImageError | None:
        offset = frame.payload_offset
        try:
            digest = hash_range(self.fd, self.path, offset, frame.length, advance)
        except ImageError as error:
            return error
        if digest == frame.checksum:
            return None
        what = f"pages of object {ref} do not match their checksum"
        return ImageCorruptError(what, path=self.path, offset=offset)

    def iter_frames(self) -> Iterator[FrameRow]:
        """Yield every frame in file order, with what is known of its checksum."""
        for frame in self.frames:
            default = "unchecked" if frame.type == FrameType.PAGES else "good"
            state = self._states.get(frame.offset, default)
            yield FrameRow(type_name(frame.type), frame.offset, frame.length, state)


class BackgroundCheck:
    """A check of all pages in a thread; `wait` raises what it found."""

    def __init__(self, image: ImageFile) -> None:
        self._image = image
        self._error: Exception | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="check-pages", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        self._thread.join()

    def wait(self) -> None:
        """Wait for the end of the check; raises the first ImageError."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._image.verify_pages(self._continue)
        except Exception as error:
            self._error = error

    def _continue(self, _done: int, _total: int) -> None:
        if self._stop:
            raise InterruptedError("the check was stopped")


def open_image_file(
    path: str | int,
    record_types: Sequence[type],
    *,
    arch: str | None = None,
    trusted_uid: int | None = None,
    progress: Progress | None = None,
) -> ImageFile:
    """Open an image and check everything but the contents of its pages.

    `path` is a path, `-` for standard input, or a descriptor. `record_types` are msgspec structs
    with tags of their own. With `trusted_uid` the file must belong to root or that user
    (ImageUntrustedError); `progress` is called while a pipe is read. Raises ImageError.
    """
    source = open_source(path, trusted_uid, progress)
    try:
        return _Opening(source, record_types, arch or os.uname().machine).finish()
    except BaseException:
        source.close()
        raise


class _Opening:
    """The state of one pass over an image's structure."""

    def __init__(self, source: Source, record_types: Sequence[type], arch: str) -> None:
        self._source = source
        self._arch = arch
        union: Any = reduce(operator.or_, record_types)
        self._decoder = msgspec.msgpack.Decoder(union)
        self._header: Header | None = None
        self._records: list[Any] = []
        self._record_bytes = 0
        self._frames: list[Frame] = []
        self._timings: Timings | None = None

    def finish(self) -> ImageFile:
        """Read all frames and return the image."""
        tail: Tail | None = None
        for frame in walk_frames(self._source):
            if frame.type == _RECORD:
                self._take_record(frame)
            elif frame.type == FrameType.TAIL:
                tail = self._take_tail(frame)
            else:
                self._take_other(frame)
            self._frames.append(frame)
        if self._header is None or tail is None:
            raise AssertionError("walk_frames ends with a tail or an error")
        return ImageFile(
            self._source, self._header, self._records, self._frames, tail, self._timings
        )

    def _fault(self, what: str, offset: int) -> ImageCorruptError:
        return ImageCorruptError(what, path=self._source.path, offset=offset)

    def _payload(self, frame: Frame) -> memoryview:
        payload = self._source.read(frame.payload_offset, frame.length)
        if checksum(payload) != frame.checksum:
            what = f"{type_name(frame.type)} frame does not match its checksum"
            raise self._fault(what, frame.offset)
        return payload

    def _take_record(self, frame: Frame) -> None:
        self._record_bytes += frame.length
        if self._record_bytes > MAX_RECORDS_BYTES:
            raise self._fault(f"more than {MAX_RECORDS_BYTES} bytes of records", frame.offset)
        try:
            self._records.append(self._decoder.decode(self._payload(frame)))
        except _NO_DECODE as error:
            what = f"record does not decode: {quoted(str(error))}"
            raise self._fault(what, frame.offset) from error

    def _take_other(self, frame: Frame) -> None:
        if frame.type == FrameType.PAGES:
            return
        payload = self._payload(frame)
        if frame.type == FrameType.HEADER:
            self._header = decode_header(payload, path=self._source.path, arch=self._arch)
        elif frame.type == FrameType.PADDING and any(payload):
            raise self._fault("padding is not zero", frame.offset)
        elif frame.type == FrameType.ERROR:
            text = quoted(bytes(payload).decode("utf-8", "replace"), 2000)
            what = f"holds no process, its snapshot failed: {text}"
            raise ImageFailedError(what, path=self._source.path)
        elif frame.type == FrameType.TIMINGS:
            self._take_timings(frame, payload)

    def _take_timings(self, frame: Frame, payload: memoryview) -> None:
        if frame.length > MAX_TIMINGS_BYTES or self._timings is not None:
            raise self._fault("timings are there twice, or too long", frame.offset)
        try:
            self._timings = decode_timings(payload)
        except _NO_DECODE as error:
            what = f"timings do not decode: {quoted(str(error))}"
            raise self._fault(what, frame.offset) from error

    def _take_tail(self, frame: Frame) -> Tail:
        pages = [item for item in self._frames if item.type == FrameType.PAGES]
        try:
            tail = parse_tail(self._payload(frame), len(pages))
        except ValueError as error:
            raise self._fault(str(error), frame.offset) from error
        heads = b"".join(FRAME.pack(*item[:4]) for item in self._frames)
        if tail.total_length != self._source.size:
            what = f"tail says {tail.total_length} bytes, the file has {self._source.size}"
            raise self._fault(what, frame.offset)
        if tail.digest != checksum(heads) or dict(tail.counts) != self._counts():
            raise self._fault("tail does not match the frames", frame.offset)
        for item, pages_frame in zip(tail.objects, pages, strict=True):
            self._check_object(item, pages_frame, frame.offset)
        return tail

    def _counts(self) -> dict[int, int]:
        counts: dict[int, int] = {}
        for frame in self._frames:
            counts[frame.type] = counts.get(frame.type, 0) + 1
        return counts

    def _check_object(self, item: PageObject, frame: Frame, tail_offset: int) -> None:
        if (item.file_offset, item.length_bytes) != (frame.payload_offset, frame.length):
            what = f"index of page object {item.ref} does not point at its pages"
            raise self._fault(what, tail_offset)
        page_size = self._header.page_size if self._header else 4096
        fault = find_fault(item.extents, item.length_bytes, page_size)
        if fault:
            raise self._fault(f"page object {item.ref}: {fault}", tail_offset)

"""Takes the target's pages into the image at the speed of a copy, with a bounded buffer.

While the target is frozen only `begin` and plain writes at known offsets happen (or `store`, which
does both); checksums are computed after the thaw by reading back from the page cache.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from xxhash import xxh3_64

from ckpt.errors import ImageError, ImageWriteError
from ckpt.image.extents import find_fault, split_extents, total_bytes
from ckpt.image.gather import BUFFER_BYTES, read_extents
from ckpt.image.tail import PageObject

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from ckpt.image.output import Progress


_SHARED_BYTES: Final = 8 << 20
"""From here on a second core helps more than its thread costs."""


class PageSink:
    """The pages frames of an image that is being written. Made by `ImageWriter`."""

    def __init__(self, fd: int, path: str, reserve: Callable[[int], int], page_size: int) -> None:
        """Write to `fd`; `reserve(length)` makes room for a pages frame, returns its offset."""
        self.fd = fd
        """For `os.pwritev` at the offsets that `begin` returns."""
        self.objects: dict[int, PageObject] = {}
        """Complete ones, by objref, in the order of `begin`."""
        self._path = path
        self._reserve = reserve
        self._page_size = page_size
        self._begun: dict[int, tuple[int, int]] = {}
        self.copy_ns = 0
        """How long `store` has taken, all calls together."""
        self.progress: Progress | None = None
        """Told of every part that `store` has copied, by the length of the image so far."""

    def begin(self, ref: int, length_bytes: int) -> int:
        """Reserve the place of all pages of object `ref`; return the file offset of the first.

        The caller writes `length_bytes` there, then calls `end`, which may wait for the thaw.
        """
        if ref in self._begun:
            raise ValueError(f"pages of object {ref} are begun twice")
        offset = self._reserve(length_bytes)
        self._begun[ref] = (offset, length_bytes)
        return offset

    def end(self, ref: int, extents: array[int]) -> None:
        """State which pages were written: flat (start, length) pairs, sorted, page aligned."""
        offset, length_bytes = self._begun[ref]
        self.objects[ref] = PageObject(ref, offset, length_bytes, extents)

    def store(self, ref: int, source_fd: int, extents: array[int], tid: int = 0) -> None:
        """Copy `extents` of `source_fd` (/proc/TID/mem, a memfd) into the image as object `ref`.

        With `tid`, many small extents of that thread's memory take a third of the time. Raises
        CaptureError when the source cannot be read, ImageWriteError when there is no room.
        """
        started_ns = time.monotonic_ns()
        total = total_bytes(extents)
        offset = self.begin(ref, total)
        if total >= _SHARED_BYTES:
            self._copy_shared(source_fd, extents, tid, offset, total)
        else:
            self._copy(source_fd, extents, tid, offset)
        self.end(ref, extents)
        self.copy_ns += time.monotonic_ns() - started_ns

    def _copy(self, source_fd: int, extents: array[int], tid: int, offset: int) -> None:
        for part in read_extents(source_fd, extents, tid):
            self.write_at(offset, part)
            offset += len(part)
            self._advance(offset)

    def _advance(self, offset: int) -> None:
        if self.progress is not None and threading.current_thread() is threading.main_thread():
            self.progress(offset, 0)

    def _copy_shared(
        self, source_fd: int, extents: array[int], tid: int, offset: int, total: int
    ) -> None:
        """Copy the second half in a thread: both calls of a copy let other threads run."""
        first, second = split_extents(extents, total // 2 & -self._page_size)
        errors: list[BaseException] = []

        def copy_second() -> None:
            try:
                self._copy(source_fd, second, tid, offset + total_bytes(first))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=copy_second, name="copy-pages")
        thread.start()
        try:
            self._copy(source_fd, first, tid, offset)
        finally:
            thread.join()
        if errors:
            raise errors[0]

    def write_pages(
        self, ref: int, extents: array[int], fill: Callable[[int, int], object]
    ) -> None:
        """Let `fill(fd, file_offset)` write the bytes of all `extents`, one after the other."""
        fill(self.fd, self.begin(ref, total_bytes(extents)))
        self.end(ref, extents)

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data`; ImageWriteError when the disk is full or fails."""
        write_all(self.fd, data, offset, self._path)

    def check(self) -> None:
        """Raise ValueError, a bug of the caller, unless all objects are complete and consistent.

        Not part of `end`, because that may run while the target is frozen.
        """
        for ref in self._begun:
            if ref not in self.objects:
                raise ValueError(f"pages of object {ref} are begun and not ended")
            item = self.objects[ref]
            fault = find_fault(item.extents, item.length_bytes, self._page_size)
            if fault:
                raise ValueError(f"pages of object {ref}: {fault}")


def write_all(fd: int, data: memoryview | bytes | bytearray, offset: int, path: str) -> None:
    """Write all of `data` at `offset` of the file at `path`, however the kernel divides it."""
    view = memoryview(data).cast("B")
    try:
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
    except OSError as error:
        raise ImageWriteError("cannot write", path=path, errno=error.errno) from error


def hash_range(
    fd: int, path: str, start: int, length: int, advance: Callable[[int], object]
) -> int | None:
    """Return the checksum of a range of the file `fd`, None if the file ends inside it.

    Lets other threads run, and calls `advance(bytes)` after each read. Raises ImageError when the
    file cannot be read.
    """
    digest = xxh3_64()
    view = memoryview(bytearray(min(BUFFER_BYTES, length)))
    offset, end = start, start + length
    while offset < end:
        try:
            got = os.preadv(fd, [view[: min(len(view), end - offset)]], offset)
        except OSError as error:
            what = "cannot read"
            raise ImageError(what, path=path, offset=offset, errno=error.errno) from error
        if got == 0:
            return None
        digest.update(view[:got])
        offset += got
        advance(got)
    return digest.intdigest()


class Advance:
    """Adds up bytes done and hands them to a progress callback."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done = 0
        self._total = total
        self._progress = progress

    def __call__(self, count: int) -> None:
        """Add `count` bytes."""
        self._done += count
        if self._progress:
            self._progress(self._done, self._total)

"""Fills a core file with memory: what files hold first, then stored pages over it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ckpt.debug.core_layout import PAGE
from ckpt.errors import CkptError
from ckpt.image.sink import Advance, write_all

if TYPE_CHECKING:
    from ckpt.debug.core_facts import Content, CoreProcess
    from ckpt.debug.core_files import Files
    from ckpt.debug.core_layout import Layout, Segment
    from ckpt.image.output import Output, Progress

_PART_BYTES: Final = 8 << 20
_BUFFER_BYTES: Final = 1 << 20


class Filler:
    """Copies contents into their places in `output`; what they leave out stays a hole."""

    def __init__(
        self,
        process: CoreProcess,
        files: Files,
        output: Output,
        base: int,
        progress: Progress | None = None,
    ) -> None:
        """Take `base`, the offset in the core at which contents begin."""
        self._process = process
        self._files = files
        self._output = output
        self._base = base
        self._advance = Advance(process.memory.total_bytes, progress)

    def fill(self, layout: Layout) -> None:
        """Copy everything.

        Raises:
            CkptError: no room, or what is to be copied cannot be read.
        """
        by_file: dict[int, list[Segment]] = {}
        for segment in layout.segments:
            if segment.piece.file_bytes and segment.piece.file >= 0:
                by_file.setdefault(segment.piece.file, []).append(segment)
        for index, segments in by_file.items():
            content = self._process.files[index].content
            if content is None:
                self._fill_from_file(index, segments)
                continue
            for segment in segments:
                self._fill_from_content(content, segment)
        for segment in layout.segments:
            if segment.piece.data:
                self._write(segment.piece.data, self._base + segment.offset)
            elif segment.piece.file_bytes:
                self._fill_stored(segment)

    def _fill_from_file(self, index: int, segments: list[Segment]) -> None:
        fd = self._files.open(index)
        name = self._process.files[index].name.decode("utf-8", "backslashreplace")
        if fd < 0:
            raise CkptError("changed while it was copied", where=f"mapped file {name!r}")
        try:
            for segment in segments:
                # A file that ends earlier leaves zeros: there the process would get SIGBUS.
                offset, size = segment.piece.file_offset, segment.piece.file_bytes
                self._copy(fd, offset, self._base + segment.offset, size, name)
        finally:
            os.close(fd)

    def _fill_from_content(self, content: Content, segment: Segment) -> None:
        piece = segment.piece
        shift = self._base + segment.offset - piece.file_offset
        end = piece.file_offset + piece.file_bytes
        for low, high, source in content.stored.iter_within(piece.file_offset, end):
            self._copy_stored(content.stored.fd, source, low + shift, high - low)
        whole = content.size_bytes & -PAGE
        if content.tail and piece.file_offset <= whole < end:
            self._write(content.tail, whole + shift)

    def _fill_stored(self, segment: Segment) -> None:
        piece, memory = segment.piece, self._process.memory
        shift = self._base + segment.offset - piece.start
        for low, high, source in memory.iter_within(piece.start, piece.start + piece.file_bytes):
            self._copy_stored(memory.fd, source, low + shift, high - low)

    def _copy_stored(self, fd: int, source: int, offset: int, size: int) -> None:
        if self._copy(fd, source, offset, size, "stored pages") != size:
            raise CkptError("ended while they were copied", where="stored pages")

    def _copy(self, fd: int, source: int, offset: int, size: int, name: str) -> int:
        """Copy up to `size` bytes; return how many there were."""
        done = 0
        while done < size:
            part = min(size - done, _PART_BYTES)
            try:
                count = os.copy_file_range(fd, self._output.fd, part, source + done, offset + done)
            except OSError:
                # Other file systems, or a real error: that one comes again, and says on which side.
                count = self._copy_buffered(fd, source + done, offset + done, part, name)
            if count == 0:
                break
            done += count
            self._advance(count)
        return done

    def _copy_buffered(self, fd: int, source: int, offset: int, size: int, name: str) -> int:
        buffer = memoryview(bytearray(min(size, _BUFFER_BYTES)))
        done = 0
        while done < size:
            try:
                count = os.preadv(fd, [buffer[: size - done]], source + done)
            except OSError as error:
                raise CkptError("cannot be read", where=name, errno=error.errno) from error
            if count == 0:
                break
            self._write(buffer[:count], offset + done)
            done += count
        return done

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        write_all(self._output.fd, data, offset, self._output.path)

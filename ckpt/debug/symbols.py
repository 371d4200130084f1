"""The address space of a process of an image: names for addresses, and the bytes that stand there.

Bytes come from the image, else from the mapped files of this machine, and from those only if they
are still what the process had mapped. Both the image and the files may be hostile: what is read and
kept is bounded, and errors of a file mean that its symbols are not known.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, Final

from ckpt.debug.elf import ElfSymbols as ElfSymbols
from ckpt.debug.space import Area, Layout
from ckpt.debug.stored import FILE, IMAGE, RECORD, ZEROS, Extents, Piece
from ckpt.objects.altstack import AltStack
from ckpt.objects.areas import AreasRecord
from ckpt.objects.file_kinds.inode import InodeContent
from ckpt.objects.mapped_files import find_change, open_found
from ckpt.objects.mm import MmRecord
from ckpt.objects.task import ThreadRecord
from ckpt.objects.vdso import VdsoRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import ProcessRecord, Records
    from ckpt.objects.mapped_files import MappedFile

_PAGE: Final = 4096
_MAX_CONTENT_BYTES: Final = 256 << 20
"""Of a deleted ELF file whose content is in the image."""
_ADDRESS_END: Final = 1 << 64


class AddressSpace(Layout):
    """The areas of one process of an image: where an address falls, and which bytes stand there.

    Use as a context manager: it keeps mapped files open.
    """

    def __init__(
        self, image: ImageFile, records: Records, process: ProcessRecord | None = None
    ) -> None:
        """Take the layout of `process`, or the first one; without one, no address has a name."""
        if process is None:
            process = records.processes[0] if records.processes else None
        self._image = image
        self.ref = process.mm if process else 0
        layout = next((r for r in records.of(AreasRecord) if r.ref == self.ref), None)
        self.files = layout.files if layout else []
        self.guards = sorted(layout.guards) if layout else []
        self._guard_starts = [start for start, _ in self.guards]
        mm = next((r for r in records.of(MmRecord) if r.ref == self.ref), None)
        heap = (mm.start_brk, mm.brk) if mm is not None else (0, 0)
        vdsos = [r for r in records.of(VdsoRecord) if process and r.tgid == process.tgid]
        self._vdso = vdsos[0].content if vdsos else b""
        self._contents = {record.ref: record for record in records.of(InodeContent)}
        self._content_extents: dict[int, Extents] = {}
        self._stacks = _find_stack_pointers(records, process)
        super().__init__(
            layout.areas if layout else [],
            [file.path for file in self.files],
            heap,
        )

    def __enter__(self) -> AddressSpace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def stored(self) -> Extents:
        """The extents that the image holds."""
        return self._extents(self.ref)

    def _extents(self, ref: int) -> Extents:
        return Extents(*self._image.page_extents(ref)) if ref in self._image.pages else Extents()

    def name_anonymous(self, area: Area) -> str:
        """As `Layout`, and say whose stack it is if a thread's stack pointer is there."""
        name = super().name_anonymous(area)
        if name != "anonymous memory":
            return name
        at = bisect_left(self._stack_pointers, area.start)
        pointer = self._stack_pointers[at] if at < len(self._stack_pointers) else area.end
        return f"stack of thread {self._stacks[pointer]}" if pointer < area.end else name

    @cached_property
    def _stack_pointers(self) -> list[int]:
        return sorted(self._stacks)

    def file_of(self, area: Area) -> MappedFile | None:
        """Return the file behind an area, None for memory without one."""
        return self.files[area.file] if self._has_file(area) else None

    def stored_bytes(self, area: Area) -> int:
        """Return how many bytes of an area the image holds, those of its shared object included."""
        stored = self.stored.total_within(area.start, area.end)
        file = self.file_of(area)
        content = self._contents.get(file.content) if file is not None and file.content else None
        if content is not None:
            end = area.offset + area.end - area.start
            stored += self._content(content.ref).total_within(area.offset, end)
            tail_at = content.size - len(content.tail)
            stored += max(min(end, content.size) - max(area.offset, tail_at), 0)
        # A private page of a deleted file is there twice: as it is in the file, and as it became.
        return max(min(stored, area.end - area.start), 0)

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the process; fewer at the first that is not known."""
        parts = []
        for piece in self.pieces(address, address + size):
            data = self.read_piece(piece)
            parts.append(data)
            if len(data) < piece.end - piece.start:
                break
        return b"".join(parts)

    def read_piece(self, piece: Piece) -> bytes:
        """Return the bytes of a piece; fewer when they cannot be read."""
        size = piece.end - piece.start
        if piece.source == ZEROS:
            return bytes(size)
        if piece.source == RECORD:
            return piece.data
        if piece.source not in (IMAGE, FILE):
            return b""
        fd = self._image.fd if piece.source == IMAGE else self.opened(piece.file).fd
        try:
            return os.pread(fd, size, piece.offset)
        except (OSError, OverflowError):
            return b""

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Yield where the bytes of [start, end) are, in order and without gap."""
        start, end = max(start, 0), min(end, _ADDRESS_END)
        while start < end:
            piece = self._piece_at(start, end)
            yield piece
            start = piece.end

    def _piece_at(self, start: int, end: int) -> Piece:
        size, offset = self.stored.find(start, end)
        if size > 0:
            return Piece(start, start + size, IMAGE, offset)
        end = start - size
        index = self._area_index(start)
        if index < 0:
            return Piece(start, min(end, self._next_start(start)), "not mapped")
        area = self._areas[index]
        end = min(end, area.end)
        guard_end, guarded = self._find_guard(start, end)
        if guarded:
            return Piece(start, guard_end, "guard pages")
        return self._unstored_piece(area, start, guard_end)

    def _next_start(self, address: int) -> int:
        index = self.first_area_behind(address)
        return self._areas[index].start if index < len(self._areas) else _ADDRESS_END

    def _find_guard(self, start: int, end: int) -> tuple[int, bool]:
        """Return up to where it stays as it is at `start`: guarded or not."""
        index = bisect_right(self._guard_starts, start)
        if index:
            low, length = self.guards[index - 1]
            if start < low + length:
                return min(end, low + length), True
        if index < len(self.guards):
            end = min(end, self._guard_starts[index])
        return end, False

    def _unstored_piece(self, area: Area, start: int, end: int) -> Piece:
        offset = area.offset + start - area.start
        if self._has_file(area):
            return self._file_piece(area.file, offset, start, end)
        if area.special == b"[vdso]" and self._vdso:
            part = self._vdso[start - area.start : end - area.start]
            source = RECORD if part else "not stored"
            return Piece(start, start + len(part) if part else end, source, data=part)
        return Piece(start, end, "not stored" if area.special else ZEROS)

    def _file_piece(self, index: int, offset: int, start: int, end: int) -> Piece:
        file = self.files[index]
        if file.content:
            return self._content_piece(file.content, offset, start, end)
        opened = self.opened(index)
        if opened.fd < 0:
            return Piece(start, end, f"file {opened.problem}")
        return self._limit_to_size(
            Piece(start, end, FILE, offset, index), os.fstat(opened.fd).st_size
        )

    def _limit_to_size(self, piece: Piece, size: int) -> Piece:
        """Cut a piece at the end of its file: zeros up to the end of the page, nothing behind."""
        left = size - piece.offset
        if left >= piece.end - piece.start:
            return piece
        if left > 0:
            return piece._replace(end=piece.start + left)
        in_page = -size % _PAGE + left
        if in_page > 0:
            return Piece(piece.start, min(piece.end, piece.start + in_page), ZEROS)
        return Piece(piece.start, piece.end, "behind the end of its file")

    def _content_piece(self, ref: int, offset: int, start: int, end: int) -> Piece:
        """A deleted file, or shared memory, whose content is in the image."""
        content = self._contents.get(ref)
        if content is None:
            return Piece(start, end, "not stored")
        size, place = self._content(ref).find(offset, offset + end - start)
        if size > 0:
            return Piece(start, start + size, IMAGE, place)
        tail_at = content.size - len(content.tail)
        if tail_at <= offset < content.size:
            data = content.tail[offset - tail_at : offset - tail_at + end - start]
            return Piece(start, start + len(data), RECORD, data=data)
        end = min(end, start - size)
        if offset < tail_at < offset + end - start:
            end = start + tail_at - offset
        return self._limit_to_size(Piece(start, end, ZEROS, offset), content.size)

    def _content(self, ref: int) -> Extents:
        if ref not in self._content_extents:
            self._content_extents[ref] = self._extents(ref)
        return self._content_extents[ref]

    def _open_file(self, index: int) -> tuple[int, str]:
        """Open a mapped file of this machine if it is what the process had, or say why not."""
        file = self.files[index]
        if file.content:
            return self._open_content(file.content)
        try:
            fd = open_found(file.path)
        except OSError as error:
            return -1, f"cannot be opened: {os.strerror(error.errno or 0)}"
        try:
            problem = find_change(file, fd)
        except OSError as error:
            problem = f"cannot be read: {os.strerror(error.errno or 0)}"
        if not problem:
            return fd, ""
        os.close(fd)
        return -1, problem

    def _open_content(self, ref: int) -> tuple[int, str]:
        """Copy a deleted ELF file out of the image, for its symbols."""
        content = self._contents.get(ref)
        if content is None or not 0 <= content.size <= _MAX_CONTENT_BYTES:
            return -1, "was deleted, and is too large to copy"
        extents = self._extents(ref)
        size, place = extents.find(0, 4)
        if size < 4 or os.pread(self._image.fd, 4, place) != b"\x7fELF":
            return -1, "is not an ELF file"
        fd = os.memfd_create("mapped", os.MFD_CLOEXEC)
        os.truncate(fd, content.size)
        for start, end, offset in extents.iter_extents():
            _copy(self._image.fd, offset, fd, start, min(end, content.size))
        os.pwrite(fd, content.tail, content.size - len(content.tail))
        return fd, ""


def _find_stack_pointers(records: Records, process: ProcessRecord | None) -> dict[int, int]:
    """Return rsp -> tid of the threads that are not on an alternate stack, wherever that lies."""
    tids = set(process.tids) if process is not None else set()
    alternate = {record.tid: record for record in records.of(AltStack)}
    found = {}
    for record in records.of(ThreadRecord):
        stack = alternate.get(record.tid)
        rsp = record.regs.rsp
        if record.tid in tids and not (stack and stack.sp < rsp <= stack.sp + stack.size):
            found[rsp] = record.tid
    return found


def _copy(source: int, offset: int, target: int, start: int, end: int) -> None:
    """Copy to [start, end) of `target`, as far as `source` goes."""
    os.lseek(target, start, os.SEEK_SET)
    while start < end:
        count = os.sendfile(target, source, offset, end - start)
        if not count:
            return
        start, offset = start + count, offset + count

"""The headers of a core file. Pure: a layout and notes to bytes.

Source: `include/uapi/linux/elf.h`; more than 65533 areas as `fs/binfmt_elf.c` writes them
(fill_extnum_info), kernel 6.18.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ckpt.debug.core_layout import PAGE

if TYPE_CHECKING:
    from ckpt.debug.core_layout import Layout, Segment

EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
"""Elf64_Ehdr, 64 bytes."""
PHDR: Final = struct.Struct("<IIQQQQQQ")
"""Elf64_Phdr, 56 bytes."""
SHDR: Final = struct.Struct("<IIQQQQIIQQ")
"""Elf64_Shdr, 64 bytes."""
PN_XNUM: Final = 0xFFFF
_IDENT: Final = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
ET_CORE, EM_X86_64, PT_LOAD, PT_NOTE = 4, 62, 1, 4
_NOTE_ALIGN: Final = 4


def build_head(layout: Layout, notes: bytes) -> tuple[bytes, int]:
    """Return ELF header, program headers and notes; and the offset at which contents begin."""
    count = len(layout.segments) + 1
    notes_at = EHDR.size + count * PHDR.size
    length = notes_at + len(notes)
    base = length + -length % PAGE
    parts = [
        _elf_header(count, base + layout.size_bytes),
        PHDR.pack(PT_NOTE, 0, notes_at, 0, 0, len(notes), 0, _NOTE_ALIGN),
        *(_program_header(segment, base) for segment in layout.segments),
        notes,
    ]
    return b"".join(parts), base


def build_end(layout: Layout) -> bytes:
    """Return what follows the contents: the section that has the number of program headers."""
    count = len(layout.segments) + 1
    return SHDR.pack(0, 0, 0, 0, 0, 1, 0, count, 0, 0) if count >= PN_XNUM else b""


def _program_header(segment: Segment, base: int) -> bytes:
    piece = segment.piece
    size = piece.end - piece.start
    sizes = (piece.start, 0, piece.file_bytes, size, PAGE)
    return PHDR.pack(PT_LOAD, segment.flags, base + segment.offset, *sizes)


def _elf_header(count: int, end: int) -> bytes:
    many = count >= PN_XNUM
    sections = (SHDR.size, 1, 0) if many else (0, 0, 0)
    return EHDR.pack(
        *(_IDENT, ET_CORE, EM_X86_64, 1, 0, EHDR.size, end if many else 0, 0),
        *(EHDR.size, PHDR.size, PN_XNUM if many else count, *sections),
    )

"""Segment descriptors that a program sets: three TLS entries of the GDT, and the LDT.

A 64-bit program uses them around 32-bit code. TLS entries go through PTRACE_GET_THREAD_AREA and
PTRACE_SET_THREAD_AREA (the 64-bit table has no set_thread_area), the LDT through modify_ldt, which
reads raw descriptors and writes ``struct user_desc``. Sources: arch/x86/include/uapi/asm/ldt.h,
arch/x86/kernel/tls.c, ldt.c and asm/desc.h, Linux 6.x.
"""

import struct
from typing import Annotated, Final

import msgspec

PTRACE_GET_THREAD_AREA: Final = 25
PTRACE_SET_THREAD_AREA: Final = 26
GDT_TLS_ENTRIES: Final = range(12, 15)
LDT_ENTRIES: Final = 8192
LDT_ENTRY_SIZE: Final = 8
# The functions of modify_ldt(2).
MODIFY_LDT_READ: Final = 0
MODIFY_LDT_WRITE: Final = 0x11
# struct user_desc: entry_number, base_addr, limit, bit fields.
USER_DESC: Final = struct.Struct("<4I")
_CONTENTS_CONFORMING: Final = 3

_U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]


class UserDesc(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """struct user_desc: one segment as the program describes it."""

    entry_number: _U32
    base_addr: _U32 = 0
    limit: Annotated[int, msgspec.Meta(ge=0, le=0xFFFFF)] = 0
    seg_32bit: bool = False
    contents: Annotated[int, msgspec.Meta(ge=0, le=3)] = 0
    read_exec_only: bool = False
    limit_in_pages: bool = False
    seg_not_present: bool = False
    useable: bool = False
    lm: bool = False

    @property
    def is_empty(self) -> bool:
        """True for what the kernel takes as "clear this entry" (LDT_empty and LDT_zero)."""
        return self in (empty_desc(self.entry_number), UserDesc(self.entry_number))


def empty_desc(entry_number: int) -> UserDesc:
    """Build the descriptor that stands for an unused entry (LDT_empty)."""
    return UserDesc(entry_number, read_exec_only=True, seg_not_present=True)


def parse_user_desc(data: bytes) -> UserDesc:
    """Decode the 16 bytes of struct user_desc; bits that have no name are dropped."""
    number, base, limit, bits = USER_DESC.unpack(data)
    return UserDesc(
        entry_number=number,
        base_addr=base,
        limit=limit & 0xFFFFF,
        seg_32bit=bool(bits & 1),
        contents=bits >> 1 & 3,
        read_exec_only=bool(bits & 1 << 3),
        limit_in_pages=bool(bits & 1 << 4),
        seg_not_present=bool(bits & 1 << 5),
        useable=bool(bits & 1 << 6),
        lm=bool(bits & 1 << 7),
    )


def encode_user_desc(desc: UserDesc) -> bytes:
    """Encode struct user_desc, 16 bytes."""
    bits = (
        desc.seg_32bit
        | desc.contents << 1
        | desc.read_exec_only << 3
        | desc.limit_in_pages << 4
        | desc.seg_not_present << 5
        | desc.useable << 6
        | desc.lm << 7
    )
    return USER_DESC.pack(desc.entry_number, desc.base_addr, desc.limit, bits)


def parse_descriptor(data: bytes, entry_number: int) -> UserDesc:
    """Decode the 8 bytes of a descriptor as the CPU has it (fill_user_desc)."""
    low, high = struct.unpack("<II", data)
    return UserDesc(
        entry_number=entry_number,
        base_addr=low >> 16 | (high & 0xFF) << 16 | high & 0xFF00_0000,
        limit=low & 0xFFFF | high & 0xF_0000,
        seg_32bit=bool(high & 1 << 22),
        contents=high >> 10 & 3,
        read_exec_only=not high & 1 << 9,
        limit_in_pages=bool(high & 1 << 23),
        seg_not_present=not high & 1 << 15,
        useable=bool(high & 1 << 20),
        lm=bool(high & 1 << 21),
    )


def encode_descriptor(desc: UserDesc) -> bytes:
    """Encode a segment as the kernel's fill_ldt does: accessed, DPL 3, never 64-bit code."""
    kind = 1 | (not desc.read_exec_only) << 1 | desc.contents << 2
    low = desc.base_addr << 16 & 0xFFFF_FFFF | desc.limit & 0xFFFF
    high = (
        desc.base_addr >> 16 & 0xFF
        | kind << 8
        | 1 << 12
        | 3 << 13
        | (not desc.seg_not_present) << 15
        | desc.limit & 0xF_0000
        | desc.useable << 20
        | desc.seg_32bit << 22
        | desc.limit_in_pages << 23
        | desc.base_addr & 0xFF00_0000
    )
    return struct.pack("<II", low, high)


def parse_ldt(data: bytes) -> list[UserDesc]:
    """Decode what modify_ldt(MODIFY_LDT_READ) returned; unused entries are left out."""
    usable = len(data) - len(data) % LDT_ENTRY_SIZE
    raw = [data[at : at + LDT_ENTRY_SIZE] for at in range(0, usable, LDT_ENTRY_SIZE)]
    return [parse_descriptor(entry, n) for n, entry in enumerate(raw) if any(entry)]


def check_tls(desc: UserDesc) -> list[str]:
    """List why the kernel would refuse a TLS entry (tls_desc_okay)."""
    where = f"tls entry {desc.entry_number}"
    if desc.entry_number not in GDT_TLS_ENTRIES:
        return [f"{where}: not one of 12 to 14"]
    if desc.is_empty:
        return []
    sound = desc.seg_32bit and desc.contents <= 1 and not desc.seg_not_present
    return [] if sound else [f"{where}: not a present 32-bit data segment"]


def check_ldt(desc: UserDesc) -> list[str]:
    """List why modify_ldt would refuse an LDT entry (write_ldt)."""
    where = f"ldt entry {desc.entry_number}"
    if desc.entry_number >= LDT_ENTRIES:
        return [f"{where}: the last one is {LDT_ENTRIES - 1}"]
    if desc.contents == _CONTENTS_CONFORMING and not desc.seg_not_present:
        return [f"{where}: conforming code that is present"]
    return []

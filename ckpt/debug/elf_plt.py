"""Names for the entries of procedure linkage tables: `poll@plt`, which no symbol table has.

An entry jumps through a slot of the global offset table, and a relocation says whose slot it is.
Layouts: System V ABI, AMD64 supplement, sections 4.4 (relocations) and 5.2 (PLT).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Read = Callable[[Any], bytes]
    """Returns the content of a section, nothing if it is too large."""

_RELOCATION: Final = struct.Struct("<QIIq")
"""Elf64_Rela: r_offset, r_info (type, symbol), r_addend."""
_SYMBOL: Final = struct.Struct("<I20x")
_SLOT_TYPES: Final = frozenset((6, 7))
"""R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT."""
_TABLES: Final = (".plt.sec", ".plt", ".plt.got")
_JUMP: Final = b"\xff\x25"
"""jmp *disp32(%rip)"""
_JUMP_BYTES: Final = 6
_PREFIXES: Final = (b"\xf3\x0f\x1e\xfa\xf2", b"\xf3\x0f\x1e\xfa", b"\xf2", b"")
"""endbr64, bnd: what may stand before the jump."""
_ENTRY_BYTES: Final = (16, 8)
_MAX_NAME: Final = 256


class PltEntry(NamedTuple):
    """One entry of a table, at the address that the file says."""

    address: int
    size: int
    name: bytes
    """With `@plt` behind it."""


def find_plt_entries(elf: Any, sections: Mapping[str, Any], read: Read) -> Iterator[PltEntry]:
    """Yield the entries of an ELF file (of pyelftools) that lead to a named function.

    `sections` are its sections by name. Raises what pyelftools raises for files that mislead.
    """
    tables = [sections[name] for name in _TABLES if name in sections]
    if not tables:
        return
    slots = dict(_find_slots(elf, sections, read))
    for section in tables:
        yield from _parse_table(read(section), section["sh_addr"], section["sh_entsize"], slots)


def _find_slots(elf: Any, sections: Mapping[str, Any], read: Read) -> Iterator[tuple[int, bytes]]:
    """Yield (address, name) of the slots that relocations fill."""
    for name in (".rela.dyn", ".rela.plt"):
        section = sections.get(name)
        if section is None:
            continue
        symbols = elf.get_section(section["sh_link"])
        table, strings = read(symbols), read(elf.get_section(symbols["sh_link"]))
        content = read(section)
        whole = len(content) - len(content) % _RELOCATION.size
        for offset, kind, symbol, _ in _RELOCATION.iter_unpack(content[:whole]):
            if kind in _SLOT_TYPES and symbol:
                yield offset, _name(table, strings, symbol)


def _name(table: bytes, strings: bytes, number: int) -> bytes:
    at = number * _SYMBOL.size
    if at + _SYMBOL.size > len(table):
        return b""
    [start] = _SYMBOL.unpack_from(table, at)
    end = strings.find(b"\0", start, start + _MAX_NAME)
    return strings[start:end] if end > start else b""


def _parse_table(
    content: bytes, address: int, entry_bytes: int, slots: Mapping[int, bytes]
) -> Iterator[PltEntry]:
    size = entry_bytes if entry_bytes in _ENTRY_BYTES else _ENTRY_BYTES[0]
    for at in range(0, len(content) - size + 1, size):
        slot = _slot_of(content[at : at + size], address + at)
        name = slots.get(slot, b"")
        if name:
            yield PltEntry(address + at, size - 1, name + b"@plt")


def _slot_of(entry: bytes, address: int) -> int:
    """Return the address of the slot that an entry jumps through, -1 if it does not."""
    for prefix in _PREFIXES:
        end = len(prefix) + _JUMP_BYTES
        if entry.startswith(prefix + _JUMP) and len(entry) >= end:
            return address + end + int.from_bytes(entry[end - 4 : end], "little", signed=True)
    return -1

"""Symbols of one ELF file, by address and by name, and where its unwind table is.

The file may be hostile: what is read and kept is bounded, and a file that misleads has no symbols.
"""

from __future__ import annotations

import functools
import os
import struct
from bisect import bisect_right
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.elf_plt import find_plt_entries
from ckpt.debug.text import escape_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckpt.debug.elf_plt import PltEntry

_MAX_TABLE_BYTES: Final = 32 << 20
_MAX_SECTIONS: Final = 4096
_MAX_NAME: Final = 256
_MAX_ALIASES: Final = 16
_MAX_UNSIZED_BYTES: Final = 4096
"""What a label without a size (assembly) covers at most."""
_PAGE: Final = 4096
_DEBUG_FOLDER: Final = "/usr/lib/debug/.build-id"
_MIN_BUILD_ID, _MAX_BUILD_ID = 2, 64
_SYMBOL: Final = struct.Struct("<IBBHQQ")
"""Elf64_Sym, `include/uapi/linux/elf.h`."""
_SYMBOL_32: Final = struct.Struct("<IIIBBH")
"""Elf32_Sym, whose members are in another order."""
_FUNCTIONS: Final = frozenset((2, 10))
"""STT_FUNC, STT_GNU_IFUNC."""
_NAMED_TYPES: Final = frozenset((0, 1, *_FUNCTIONS))
"""STT_NOTYPE (labels of assembly) and STT_OBJECT as well."""
_PLT: Final = b"@plt"
_SHN_ABS: Final = 0xFFF1


class Symbol(NamedTuple):
    """One symbol of a file."""

    value: int
    size: int
    name_at: int
    is_function: bool = True


class Load(NamedTuple):
    """One PT_LOAD segment."""

    offset: int
    file_bytes: int
    address: int
    memory_bytes: int


class ElfSymbols:
    """The symbols and segments of one ELF file."""

    def __init__(self, fd: int, budget: int) -> None:
        """Read the tables of the file open as `fd`, at most `budget` bytes of them."""
        from elftools.elf.elffile import ELFFile

        self.read_bytes = 0
        self.loads: list[Load] = []
        self.unwind_table: tuple[int, int] | None = None
        """Start and end of `.eh_frame_hdr`, as the file says."""
        self._fd = fd
        self._budget = budget
        self._section_ends: dict[int, int] = {}
        with open(os.dup(fd), "rb") as stream:
            elf = ELFFile(stream)
            self._read_segments(elf)
            sections = list(_iter_sections(elf))
            self._names, table = self._read_tables(elf, sections, fd)
            by_name = {section.name: section for section in sections}
            read = functools.partial(self._read, fd=fd)
            entries = list(find_plt_entries(elf, by_name, read))
        parse = _parse_symbols if elf.elfclass == 64 else _parse_symbols_32
        named = [*parse(table), *self._add_names(entries)]
        self._symbols = _measure(sorted(named), self._section_ends)
        self._values = [symbol.value for symbol in self._symbols]

    def _read_segments(self, elf: Any) -> None:
        for index, segment in enumerate(elf.iter_segments()):
            if index >= _MAX_SECTIONS:
                break
            address, size = segment["p_vaddr"], segment["p_memsz"]
            if segment["p_type"] == "PT_LOAD":
                self.loads.append(Load(segment["p_offset"], segment["p_filesz"], address, size))
            elif segment["p_type"] == "PT_GNU_EH_FRAME":
                self.unwind_table = address, address + size

    def _read_tables(
        self, elf: Any, sections: Iterable[Any], fd: int, *, follow: bool = True
    ) -> tuple[bytes, bytes]:
        """Return string table and symbol table: the full one, or that of dynamic linking.

        `follow`: the full one may be in a file of its own.
        """
        found: dict[str, Any] = {}
        for section in sections:
            found.setdefault(section["sh_type"], section)
            self._section_ends[section["sh_addr"]] = section["sh_addr"] + section["sh_size"]
        section = found.get("SHT_SYMTAB")
        if section is None:
            tables = self._read_debug_file() if follow else (b"", b"")
            if tables[1]:
                return tables
            section = found.get("SHT_DYNSYM")
        if section is None:
            return b"", b""
        strings = elf.get_section(section["sh_link"])
        return self._read(strings, fd), self._read(section, fd)

    def _read_debug_file(self) -> tuple[bytes, bytes]:
        """Return the tables that were taken off a file and installed beside it, by its build-id."""
        from elftools.elf.elffile import ELFFile

        from ckpt.objects.mapped_files import read_build_id

        build_id = read_build_id(self._fd)
        if not _MIN_BUILD_ID <= len(build_id) <= _MAX_BUILD_ID:
            return b"", b""
        path = f"{_DEBUG_FOLDER}/{build_id[:1].hex()}/{build_id[1:].hex()}.debug"
        try:
            with open(path, "rb") as stream:
                if read_build_id(stream.fileno()) == build_id:
                    elf = ELFFile(stream)
                    sections = _iter_sections(elf)
                    return self._read_tables(elf, sections, stream.fileno(), follow=False)
        except OSError:
            pass  # It is not installed: the names of dynamic linking must do.
        return b"", b""

    def _read(self, section: Any, fd: int) -> bytes:
        size = section["sh_size"]
        if size > min(_MAX_TABLE_BYTES, self._budget - self.read_bytes):
            return b""
        self.read_bytes += size
        return os.pread(fd, size, section["sh_offset"])

    def _add_names(self, entries: Iterable[PltEntry]) -> Iterator[Symbol]:
        """Yield symbols for entries, whose names join the string table."""
        at = len(self._names) + 1
        self._names = b"\0".join([self._names, *(entry.name for entry in entries), b""])
        for entry in entries:
            yield Symbol(entry.address, entry.size, at)
            at += len(entry.name) + 1

    @property
    def first_load(self) -> tuple[int, int] | None:
        """File offset and address of the first segment, at the start of their page."""
        if not self.loads:
            return None
        load = self.loads[0]
        return load.offset - load.offset % _PAGE, load.address - load.offset % _PAGE

    def address_of_offset(self, offset: int) -> int:
        """Return the address at which `offset` of the file is loaded; the offset itself if not."""
        for load in self.loads:
            if load.offset - load.offset % _PAGE <= offset < load.offset + load.file_bytes:
                return load.address + offset - load.offset
        return offset

    def covers(self, address: int) -> bool:
        """Tell whether a segment holds `address`, as data of the file or zeroed."""
        return any(0 <= address - load.address < load.memory_bytes for load in self.loads)

    def name_address(self, address: int) -> str:
        """Return `name+0x1f` for an address of the file, empty when no symbol covers it."""
        symbol = self.find_symbol(address)
        if symbol is None:
            return ""
        name, past = self.name_of(symbol), address - symbol.value
        return f"{name}+{past:#x}" if name and past else name

    def find_symbol(self, address: int) -> Symbol | None:
        """Return the symbol that covers an address of the file."""
        index = bisect_right(self._values, address) - 1
        # A small symbol may stand inside a larger one, behind which the address is.
        for at in range(index, max(index - _MAX_ALIASES, -1), -1):
            symbol = self._symbols[at]
            # A thread that waits in a call stands behind its last byte if the call ends it.
            if address - symbol.value <= symbol.size:
                return symbol
        return None

    def next_start(self, address: int) -> int | None:
        """Return where the first symbol behind an address of the file begins."""
        index = bisect_right(self._values, address)
        return self._values[index] if index < len(self._values) else None

    def name_of(self, symbol: Symbol) -> str:
        """Return a symbol's name, of several the one with the fewest underscores in front."""
        names = [name for name in self.aliases(symbol) if name]
        if not names:
            return ""
        return min(names, key=lambda name: (len(name) - len(name.lstrip("_")), len(name), name))

    def aliases(self, symbol: Symbol) -> Iterator[str]:
        """Yield every name of what stands there, as safe text."""
        index = bisect_right(self._values, symbol.value) - 1
        for at in range(index, max(index - _MAX_ALIASES, -1), -1):
            other = self._symbols[at]
            if other.value != symbol.value:
                break
            if other.size == symbol.size:
                yield self._name_at(other.name_at)

    def _name_at(self, offset: int) -> str:
        end = self._names.find(b"\0", offset, offset + _MAX_NAME)
        return escape_bytes(_bare(self._names[offset:end])) if end > 0 else ""

    def find_name(self, name: str) -> Symbol | None:
        """Return the symbol of this name, the largest if several have it."""
        places = self._by_name.get(name.encode("utf-8", "surrogateescape"), ())
        return max((self._symbols[at] for at in places), key=lambda s: s.size, default=None)

    @cached_property
    def _by_name(self) -> dict[bytes, list[int]]:
        found: dict[bytes, list[int]] = {}
        for at, symbol in enumerate(self._symbols):
            end = self._names.find(b"\0", symbol.name_at, symbol.name_at + _MAX_NAME)
            if end > symbol.name_at:
                name = _bare(self._names[symbol.name_at : end])
                found.setdefault(name, []).append(at)
        return found


def _iter_sections(elf: Any) -> Iterator[Any]:
    # What goes through all sections by pyelftools' own means can be made to go on for ever.
    for index in range(min(elf.num_sections(), _MAX_SECTIONS)):
        yield elf.get_section(index)


def _bare(name: bytes) -> bytes:
    """Return a name without its version: `read` of `read@@GLIBC_2.2.5`."""
    return name if name.endswith(_PLT) else name.partition(b"@")[0]


def _parse_symbols(table: bytes) -> Iterator[Symbol]:
    whole = len(table) - len(table) % _SYMBOL.size
    for name_at, info, _, section, value, size in _SYMBOL.iter_unpack(table[:whole]):
        kind = info & 15
        if 0 < section < _SHN_ABS and name_at and kind in _NAMED_TYPES:
            yield Symbol(value, size, name_at, kind in _FUNCTIONS)


def _parse_symbols_32(table: bytes) -> Iterator[Symbol]:
    whole = len(table) - len(table) % _SYMBOL_32.size
    for name_at, value, size, info, _, section in _SYMBOL_32.iter_unpack(table[:whole]):
        kind = info & 15
        if 0 < section < _SHN_ABS and name_at and kind in _NAMED_TYPES:
            yield Symbol(value, size, name_at, kind in _FUNCTIONS)


def _measure(symbols: list[Symbol], section_ends: Mapping[int, int]) -> list[Symbol]:
    """Give labels without a size one: up to the next symbol, within their section."""
    starts = sorted(start for start in section_ends if start)
    following = 0
    for index in range(len(symbols) - 1, -1, -1):
        symbol = symbols[index]
        if not symbol.size and following:
            at = bisect_right(starts, symbol.value) - 1
            end = min(following, section_ends[starts[at]]) if at >= 0 else 0
            size = min(max(end - symbol.value - 1, 0), _MAX_UNSIZED_BYTES)
            symbols[index] = symbol._replace(size=size)
        if not index or symbols[index - 1].value != symbol.value:
            following = symbol.value
    return symbols


def read_symbols(fd: int, budget: int) -> ElfSymbols | None:
    """Read the symbols of the file open as `fd`; None when it is no ELF file, or a misleading one.

    `budget`: bytes of tables to read at most.
    """
    from elftools.common.exceptions import ELFError
    from elftools.construct.core import ConstructError

    try:
        return ElfSymbols(fd, budget)
    # What pyelftools raises for files that are none, or made to mislead.
    except (ELFError, ConstructError, OSError, ValueError, LookupError, TypeError) as error:
        del error
        return None
    except (AttributeError, AssertionError, OverflowError, struct.error):
        return None

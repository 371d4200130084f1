"""Names for addresses of an image: the area, the mapped file, the symbol.

Files are those of this machine, and only if they are still what the process had mapped. Both the
image and the files may be hostile: what is read and kept is bounded, and errors of a file mean
that its symbols are not known.
"""

from __future__ import annotations

import operator
import os
import struct
from bisect import bisect_right
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.text import escape, escape_bytes
from ckpt.objects.areas import AreasRecord
from ckpt.objects.mapped_files import find_change, open_found
from ckpt.objects.mm import MmRecord
from ckpt.objects.vma_flags import Vm

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.image.reader import ImageFile
    from ckpt.objects.areas import Area
    from ckpt.objects.base import Records
    from ckpt.objects.mapped_files import MappedFile

_MAX_TABLE_BYTES: Final = 32 << 20
_MAX_READ_BYTES: Final = 128 << 20
"""Of all symbol and string tables together."""
_MAX_FILES: Final = 256
_MAX_SECTIONS: Final = 4096
_MAX_NAME: Final = 256
_SYMBOL: Final = struct.Struct("<IBBHQQ")
"""Elf64_Sym, `include/uapi/linux/elf.h`."""
_NAMED_TYPES: Final = frozenset((1, 2, 10))
"""STT_OBJECT, STT_FUNC, STT_GNU_IFUNC."""


class Symbol(NamedTuple):
    """One symbol of a file."""

    value: int
    size: int
    name_at: int


class ElfSymbols:
    """The symbols of one ELF file, by file offset."""

    def __init__(self, fd: int, budget: int) -> None:
        """Read the tables of the file open as `fd`, at most `budget` bytes of them."""
        from elftools.elf.elffile import ELFFile

        self.read_bytes = 0
        self._fd = fd
        self._budget = budget
        with open(os.dup(fd), "rb") as stream:
            elf = ELFFile(stream)
            self._loads = [
                (segment["p_offset"], segment["p_filesz"], segment["p_vaddr"])
                for index, segment in zip(range(_MAX_SECTIONS), elf.iter_segments(), strict=False)
                if index < _MAX_SECTIONS and segment["p_type"] == "PT_LOAD"
            ]
            self._names, table = self._read_tables(elf)
        self._symbols = sorted(_parse_symbols(table))
        self._values = [symbol.value for symbol in self._symbols]

    def _read_tables(self, elf: Any) -> tuple[bytes, bytes]:
        """Return string table and symbol table: the full one, or that of dynamic linking."""
        found: dict[str, Any] = {}
        for index in range(min(elf.num_sections(), _MAX_SECTIONS)):
            section = elf.get_section(index)
            found.setdefault(section["sh_type"], section)
        section = found.get("SHT_SYMTAB") or found.get("SHT_DYNSYM")
        if section is None:
            return b"", b""
        strings = elf.get_section(section["sh_link"])
        return self._read(strings), self._read(section)

    def _read(self, section: Any) -> bytes:
        size = section["sh_size"]
        if size > min(_MAX_TABLE_BYTES, self._budget - self.read_bytes):
            return b""
        self.read_bytes += size
        return os.pread(self._fd, size, section["sh_offset"])

    def find(self, offset: int) -> str:
        """Return `name+0x1f` for a file offset, empty when no symbol covers it."""
        for start, size, address in self._loads:
            if start <= offset < start + size:
                return self._find_address(address + offset - start)
        return ""

    def _find_address(self, address: int) -> str:
        index = bisect_right(self._values, address) - 1
        if index < 0:
            return ""
        symbol = self._symbols[index]
        past = address - symbol.value
        # A thread that waits in a call stands behind its last byte if the call ends the function.
        if past > symbol.size:
            return ""
        end = self._names.find(b"\0", symbol.name_at, symbol.name_at + _MAX_NAME)
        name = escape_bytes(self._names[symbol.name_at : end]) if end > 0 else ""
        return f"{name}+{past:#x}" if name and past else name


def _parse_symbols(table: bytes) -> Iterator[Symbol]:
    whole = len(table) - len(table) % _SYMBOL.size
    for name_at, info, _, section, value, size in _SYMBOL.iter_unpack(table[:whole]):
        if section and value and info & 15 in _NAMED_TYPES:
            yield Symbol(value, size, name_at)


class AddressSpace:
    """The areas of one process of an image: where an address falls, and which bytes stand there.

    Use as a context manager: it keeps mapped files open.
    """

    def __init__(self, image: ImageFile, records: Records) -> None:
        """Take the first process's layout; without one, no address has a name."""
        self._image = image
        process = records.processes[0] if records.processes else None
        layouts = {record.ref: record for record in records.of(AreasRecord)}
        self._ref = process.mm if process else 0
        layout = layouts.get(self._ref)
        areas = layout.areas if layout else []
        self._areas = sorted(areas, key=lambda area: area.start)
        self._starts = [area.start for area in self._areas]
        self._files = layout.files if layout else []
        self._mm = next((r for r in records.of(MmRecord) if r.ref == self._ref), None)
        self._opened: dict[int, tuple[int, ElfSymbols | None]] = {}
        self._budget = _MAX_READ_BYTES

    def __enter__(self) -> AddressSpace:
        return self

    def __exit__(self, *_: object) -> None:
        for fd, _symbols in self._opened.values():
            if fd >= 0:
                os.close(fd)
        self._opened.clear()

    def find_area(self, address: int) -> Area | None:
        """Return the area that holds `address`."""
        index = bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._areas[index].end:
            return None
        return self._areas[index]

    def locate(self, address: int) -> str:
        """Return what `address` falls in, as safe text; empty when it is not mapped."""
        area = self.find_area(address)
        if area is None:
            return ""
        file = self._file_of(area)
        if file is None:
            return self._name_anonymous(area)
        offset = address - area.start + area.offset
        symbol = self._symbol(area.file, offset)
        name = escape(file.path.rpartition("/")[2] or file.path)
        return f"{name} {symbol}" if symbol else f"{name}+{offset:#x}"

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the process, from the image or an unchanged file; fewer at a gap."""
        stored = self._read_stored(address, size)
        if stored:
            return stored
        area = self.find_area(address)
        if area is None or self._file_of(area) is None:
            return b""
        fd, _ = self._open(area.file)
        try:
            return os.pread(fd, size, address - area.start + area.offset) if fd >= 0 else b""
        except (OSError, OverflowError):
            return b""

    def _file_of(self, area: Area) -> MappedFile | None:
        return self._files[area.file] if 0 <= area.file < len(self._files) else None

    def _name_anonymous(self, area: Area) -> str:
        if area.special or area.anon_name:
            return escape_bytes(area.special or area.anon_name)
        if self._mm is not None and self._mm.start_brk <= area.start < self._mm.brk:
            return "heap"
        return "stack" if area.flags & Vm.GROWSDOWN else "anonymous memory"

    def _read_stored(self, address: int, size: int) -> bytes:
        starts, ends, offsets = self._stored
        index = bisect_right(starts, address) - 1
        if index < 0 or address >= ends[index]:
            return b""
        room = ends[index] - address
        return os.pread(self._image.fd, min(size, room), offsets[index] + address - starts[index])

    @cached_property
    def _stored(self) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Start, end and file offset of every extent that the image holds."""
        if self._ref not in self._image.pages:
            return (), (), ()
        extents, offset = self._image.page_extents(self._ref)
        starts, lengths = extents[0::2], extents[1::2]
        offsets = list(accumulate(lengths, initial=offset))
        return starts, list(map(operator.add, starts, lengths)), offsets

    def _symbol(self, index: int, offset: int) -> str:
        _, symbols = self._open(index)
        return symbols.find(offset) if symbols is not None else ""

    def _open(self, index: int) -> tuple[int, ElfSymbols | None]:
        if index not in self._opened:
            fd = self._open_unchanged(self._files[index])
            self._opened[index] = (fd, self._read_symbols(fd) if fd >= 0 else None)
        return self._opened[index]

    def _open_unchanged(self, file: MappedFile) -> int:
        if file.content or len(self._opened) >= _MAX_FILES:
            return -1
        try:
            fd = open_found(file.path)
        except OSError:
            return -1
        try:
            if not find_change(file, fd):
                return fd
        except OSError:
            pass  # It cannot be read: then it has no names for us.
        os.close(fd)
        return -1

    def _read_symbols(self, fd: int) -> ElfSymbols | None:
        from elftools.common.exceptions import ELFError
        from elftools.construct.core import ConstructError

        try:
            symbols = ElfSymbols(fd, self._budget)
        # What pyelftools raises for files that are none, or made to mislead.
        except (ELFError, ConstructError, OSError, ValueError, LookupError, TypeError) as error:
            del error
            return None
        except (AttributeError, AssertionError, OverflowError, struct.error):
            return None
        self._budget -= symbols.read_bytes
        return symbols

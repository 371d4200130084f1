"""Symbols of files, kept: in memory for as long as the store lives, and in the cache folder.

Parsing a symbol table takes longer than everything else in a first look at a process, and files
hardly change. A file is known by what cannot be forged without writing it: device, inode, size,
times of change and modification.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import TYPE_CHECKING, Final

import msgspec

from ckpt.debug import elf, elf_plt
from ckpt.debug.elf import ElfSymbols, Load, Symbol, read_symbols

if TYPE_CHECKING:
    from ckpt.host.bpf_cache import Cache

_PREFIX: Final = "symbols-3-"
"""With a version of what is kept: a change of `_Kept` or of `ElfSymbols` takes another."""
_DEBUG_FOLDER: Final = "/usr/lib/debug/.build-id"
_FILES_KEPT: Final = 48
_MAX_KEPT_BYTES: Final = 2 << 20
_MAX_READ_BYTES: Final = 64 << 20
_MAX_NAMELESS_BYTES: Final = 1 << 16
_PT_NOTE: Final = 4
_NT_GNU_BUILD_ID: Final = 3
_MAX_NOTES_BYTES: Final = 1 << 16
_HEADERS: Final = {1: ("<28xI10xHH", "<II8xI12x"), 2: ("<32xQ14xHH", "<I4xQ16xQ16x")}
"""By EI_CLASS: e_phoff, e_phentsize, e_phnum of the ELF header; p_type, p_offset, p_filesz."""


class _Kept(msgspec.Struct, array_like=True):
    """What the cache folder holds of one file; without `loads` it is no ELF file."""

    loads: list[Load]
    unwind_table: tuple[int, int] | None
    names: bytes
    symbols: list[Symbol]


class _KeptSymbols(ElfSymbols):
    """Symbols from the cache folder: the file is not looked at."""

    def __init__(self, kept: _Kept) -> None:
        self.read_bytes = 0
        self.loads = kept.loads
        self.unwind_table = kept.unwind_table
        self._names = kept.names
        self._symbols = kept.symbols
        self._values = [symbol.value for symbol in kept.symbols]

    @staticmethod
    def pack(symbols: ElfSymbols) -> bytes:
        """Return what makes the same symbols again."""
        kept = _Kept(symbols.loads, symbols.unwind_table, symbols._names, symbols._symbols)
        return msgspec.msgpack.encode(kept)


class SymbolStore:
    """The symbols of every file that was asked for."""

    def __init__(self, cache: Cache | None = None) -> None:
        """Keep them in `cache` as well, if it is given; it must stay open for as long."""
        self._cache = cache
        self._known: dict[str, ElfSymbols | None] = {}
        self._version = _find_version()

    def symbols_of(self, fd: int) -> ElfSymbols | None:
        """Return the symbols of the file open as `fd`; None when it has none that can be read."""
        try:
            key = f"{_PREFIX}{self._version}-{_identify(fd)}"
        except OSError:
            return None
        if key not in self._known:
            self._known[key] = self._load(key) or self._read(fd, key)
        return self._known[key]

    def _load(self, key: str) -> ElfSymbols | None:
        payload = self._cache.load(key) if self._cache is not None else None
        if payload is None:
            return None
        try:
            return _KeptSymbols(msgspec.msgpack.decode(payload, type=_Kept))
        except (msgspec.DecodeError, msgspec.ValidationError):
            assert self._cache is not None
            self._cache.discard(key)
            return None

    def _read(self, fd: int, key: str) -> ElfSymbols | None:
        symbols = read_symbols(fd, _MAX_READ_BYTES)
        if symbols is not None and self._cache is not None:
            payload = _KeptSymbols.pack(symbols)
            if len(payload) <= _MAX_KEPT_BYTES:
                self._cache.store(key, payload)
                self._cache.keep_newest(_PREFIX, _FILES_KEPT)
        return symbols


def _find_version() -> str:
    """Return what tells apart entries that another version of the program made."""
    sources = (elf.__file__, elf_plt.__file__, __file__)
    stats = [os.stat(source) for source in sources]
    return f"{sum(each.st_mtime_ns ^ each.st_size for each in stats):x}"


def _identify(fd: int) -> str:
    """Return the name of a file's entry; a nameless copy (the vdso) goes by its content."""
    found = os.fstat(fd)
    if found.st_nlink == 0 and found.st_size <= _MAX_NAMELESS_BYTES:
        import xxhash

        return f"{xxhash.xxh3_128_hexdigest(os.pread(fd, found.st_size, 0))}"
    times = f"{found.st_mtime_ns:x}-{found.st_ctime_ns:x}-{_debug_file_time(fd):x}"
    return f"{found.st_dev:x}-{found.st_ino:x}-{found.st_size:x}-{times}"


def _debug_file_time(fd: int) -> int:
    """Return when the file's symbols were installed beside it; 0: they are not."""
    build_id = read_build_id(fd)
    if len(build_id) <= 2:
        return 0
    try:
        return os.stat(f"{_DEBUG_FOLDER}/{build_id[:2]}/{build_id[2:]}.debug").st_mtime_ns
    except OSError:
        return 0


def read_build_id(fd: int) -> str:
    """Return the GNU build-id of an ELF file of either class, in hex; empty when it has none."""
    with contextlib.suppress(OSError, OverflowError, struct.error):
        return _read_build_id(fd)
    return ""


def _read_build_id(fd: int) -> str:
    head = os.pread(fd, 64, 0)
    if head[:4] != b"\x7fELF" or head[4] not in _HEADERS:
        return ""
    header, entry = _HEADERS[head[4]]
    table_at, entry_bytes, count = struct.unpack_from(header, head)
    table = os.pread(fd, min(entry_bytes * count, _MAX_NOTES_BYTES), table_at)
    for at in range(0, len(table) - struct.calcsize(entry) + 1, max(entry_bytes, 32)):
        kind, offset, size = struct.unpack_from(entry, table, at)
        if kind == _PT_NOTE:
            found = _find_build_id(os.pread(fd, min(size, _MAX_NOTES_BYTES), offset))
            if found:
                return found.hex()
    return ""


def _find_build_id(notes: bytes) -> bytes:
    at = 0
    while at + 12 <= len(notes):
        name_size, desc_size, kind = struct.unpack_from("<III", notes, at)
        desc_at = at + 12 + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[desc_at : desc_at + desc_size]
        at = desc_at + (desc_size + 3 & ~3)
    return b""

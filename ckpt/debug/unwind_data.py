"""Reading numbers of DWARF call frame information from bytes of unknown origin.

Encodings: DWARF 4, section 7.6 (LEB128); the Linux Standard Base, "DWARF extensions" (DW_EH_PE_*).
"""

from __future__ import annotations

import struct
from typing import Final

MASK: Final = (1 << 64) - 1
_MAX_LEB_BYTES: Final = 10

DW_EH_PE_OMIT: Final = 0xFF
_INDIRECT: Final = 0x80
_FORMATS: Final = {
    0x00: struct.Struct("<Q"),
    0x02: struct.Struct("<H"),
    0x03: struct.Struct("<I"),
    0x04: struct.Struct("<Q"),
    0x0A: struct.Struct("<h"),
    0x0B: struct.Struct("<i"),
    0x0C: struct.Struct("<q"),
}
_ULEB128, _SLEB128 = 0x01, 0x09
_ABSOLUTE, _PCREL, _DATAREL = 0x00, 0x10, 0x30


class MalformedError(ValueError):
    """Call frame information that says nothing, or something that nobody writes."""


class Cursor:
    """A place in bytes that stand at `address` in the target."""

    def __init__(self, data: bytes, address: int = 0, data_base: int = 0) -> None:
        """Begin at the first byte; `data_base` is what DW_EH_PE_datarel counts from."""
        self.data = data
        self.at = 0
        self._address = address
        self._data_base = data_base

    @property
    def at_end(self) -> bool:
        """Tell whether everything was read."""
        return self.at >= len(self.data)

    def take(self, size: int) -> bytes:
        """Read `size` bytes."""
        if not 0 <= size <= len(self.data) - self.at:
            raise MalformedError("it ends too early")
        self.at += size
        return self.data[self.at - size : self.at]

    def unsigned(self, size: int) -> int:
        """Read an unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        """Read a signed number of `size` bytes."""
        return int.from_bytes(self.take(size), "little", signed=True)

    def uleb(self) -> int:
        """Read an unsigned LEB128 number of at most 64 bits."""
        value, _ = self._leb()
        return value & MASK

    def sleb(self) -> int:
        """Read a signed LEB128 number of at most 64 bits."""
        value, bits = self._leb()
        return value - (1 << bits) if value >> (bits - 1) else value

    def _leb(self) -> tuple[int, int]:
        value = 0
        for count in range(_MAX_LEB_BYTES):
            byte = self.unsigned(1)
            value |= (byte & 0x7F) << 7 * count
            if not byte & 0x80:
                return value, 7 * count + 7
        raise MalformedError("a number has more than 64 bits")

    def block(self) -> bytes:
        """Read a length, and so many bytes."""
        return self.take(self.uleb())

    def text(self) -> bytes:
        """Read bytes up to a zero byte."""
        end = self.data.find(b"\0", self.at)
        found = self.take(end - self.at)
        self.at += 1
        return found

    def pointer(self, encoding: int, *, relative: bool = True) -> int:
        """Read a pointer as `encoding` (DW_EH_PE_*) says; without `relative` only its number."""
        here = self._address + self.at
        form = encoding & 0x0F
        if form in _FORMATS:
            layout = _FORMATS[form]
            [value] = layout.unpack(self.take(layout.size))
        elif form in (_ULEB128, _SLEB128):
            value = self.uleb() if form == _ULEB128 else self.sleb()
        else:
            raise MalformedError(f"pointer encoding {encoding:#x}")
        if not relative or not value:
            return int(value) & MASK
        base = {_ABSOLUTE: 0, _PCREL: here, _DATAREL: self._data_base}.get(encoding & 0x70)
        if base is None or encoding & _INDIRECT:
            raise MalformedError(f"pointer encoding {encoding:#x}")
        return (base + int(value)) & MASK

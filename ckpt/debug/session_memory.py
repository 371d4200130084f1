"""The memory of one process of an image: what stands at an address, and where that is known from.

A page that the image does not store is zero (anonymous memory that was never touched), or as it is
in the file that is mapped there, if that is still on this machine as it was.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.session_symbols import Symbol, find_named, variable_at
from ckpt.debug.session_views import Number
from ckpt.debug.stored import ZEROS, Piece
from ckpt.debug.symbols import AddressSpace
from ckpt.debug.text import escape
from ckpt.errors import CkptError
from ckpt.objects.mm import MmRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.debug.space import Area
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import ProcessRecord, Records

_TOP: Final = 1 << 64
_CHUNK: Final = 1 << 20
_MAX_READ: Final = 1 << 30
_MAX_STRING: Final = 1 << 16


class FaultError(CkptError):
    """Memory that cannot be read; `address` is the first byte of it."""

    def __init__(self, address: int, what: str) -> None:
        self.address = address
        super().__init__(what, where=f"address {address:#x}")


class Range(NamedTuple):
    """Addresses [start, end) whose bytes are known from one place."""

    start: int
    end: int
    source: str
    """`image` (stored), `zeros` (anonymous, never touched), `file` (as in the mapped file),
    `record`; anything else says why its bytes are not known. Safe to print."""
    is_known: bool

    def __repr__(self) -> str:
        return f"<{self.start:#x}-{self.end:#x} {self.source}>"


class Memory:
    """The address space of one process.

        memory.read(addr, 16)             bytes; FaultError when they are not all known
        memory.u32(addr), .u64(addr), .i32(addr), .i64(addr), .string(addr)
        memory.symbol("counter")          address of a variable or function
        memory["counter"]                 the bytes of a variable
        memory.locate(addr)               what an address falls in, as text
        memory.search(b"needle")          every address at which these bytes stand
        memory.ranges(start, end)         what is stored, zero, or as in a mapped file

    What is not mapped, or not known, raises FaultError; its `address` says where.
    """

    def __init__(self, image: ImageFile, records: Records, process: ProcessRecord) -> None:
        """Take the layout that `process` refers to; one without a layout has no memory."""
        self.space = AddressSpace(image, records, process)
        """What `ckpt.debug` as a whole knows of it: areas, modules, symbols."""
        exe = next((one.exe.path for one in records.of(MmRecord) if one.ref == process.mm), "")
        self._program = escape(exe.rpartition("/")[2])

    def __repr__(self) -> str:
        size = sum(area.end - area.start for area in self.areas)
        stored = self.space.stored.total_within(0, _TOP)
        return f"<memory: {len(self.areas)} areas, {size} bytes, {stored} of them stored>"

    def close(self) -> None:
        """Close the mapped files. May be called twice."""
        self.space.close()

    @property
    def areas(self) -> Sequence[Area]:
        """The areas, by address."""
        return self.space.areas

    def area(self, address: int) -> Area | None:
        """Return the area that holds `address`."""
        return self.space.find_area(address)

    def read(self, address: int, size: int) -> bytes:
        """Return exactly `size` bytes at `address` (at most 1 GiB), from wherever they are known.

        Raises:
            FaultError: some are not mapped, or not known.
        """
        if not 0 <= size <= _MAX_READ:
            raise ValueError(f"{size} bytes: at most {_MAX_READ} can be read at once")
        if not 0 <= address <= _TOP - size:
            raise FaultError(address, "not an address")
        parts = []
        for piece in self.space.pieces(address, address + size):
            data = self.space.read_piece(piece)
            parts.append(data)
            if len(data) < piece.end - piece.start:
                what = "cannot be read" if piece.is_known else piece.source
                raise FaultError(piece.start + len(data), what)
        return b"".join(parts)

    def ranges(self, start: int = 0, end: int = _TOP) -> Iterator[Range]:
        """Yield where the bytes of [start, end) are known from, in order and without gap."""
        for piece in self.space.pieces(start, end):
            yield Range(piece.start, piece.end, piece.source, piece.is_known)

    def locate(self, address: int) -> str:
        """Return what `address` falls in, as safe text; empty when it is not mapped."""
        return self.space.locate(address)

    def symbol(self, name: str, file: str = "") -> Number:
        """Return the address of a variable or function, of a file with `file` in its path.

        The program comes before its libraries. Only files that are on this machine, as they were
        mapped, have names; thread-local variables have no address of their own.

        Raises:
            LookupError: nothing mapped has that name.
        """
        return self.name(self.find_symbol(name, file).address)

    def find_symbol(self, name: str, file: str = "") -> Symbol:
        """Return a symbol with its size and its file; otherwise as `symbol`."""
        found = list(find_named(self.space, name, file))
        if not found:
            raise LookupError(f"{escape(name)}: no mapped file that is here, unchanged, has it")
        return min(found, key=lambda one: one.file != self._program)

    def variable_at(self, address: int) -> Symbol | None:
        """Return the variable that holds `address`, if its name is known."""
        return variable_at(self.space, address)

    def __getitem__(self, name: str) -> bytes:
        """Return the bytes of a variable; LookupError, FaultError."""
        found = self.find_symbol(name)
        return self.read(found.address, found.size)

    def name(self, address: int) -> Number:
        """Return `address` as a number that prints with what it falls in."""
        place = self.locate(address)
        return Number(address, f"{address:#x} ({place})" if place else hex(address))

    def u8(self, address: int) -> int:
        """Return the byte at `address`; FaultError."""
        return self.read(address, 1)[0]

    def u16(self, address: int) -> int:
        """Return the unsigned 16-bit number at `address`; FaultError."""
        return int(struct.unpack("<H", self.read(address, 2))[0])

    def u32(self, address: int) -> int:
        """Return the unsigned 32-bit number at `address`; FaultError."""
        return int(struct.unpack("<I", self.read(address, 4))[0])

    def u64(self, address: int) -> int:
        """Return the unsigned 64-bit number at `address`; FaultError."""
        return int(struct.unpack("<Q", self.read(address, 8))[0])

    def i32(self, address: int) -> int:
        """Return the signed 32-bit number at `address`; FaultError."""
        return int(struct.unpack("<i", self.read(address, 4))[0])

    def i64(self, address: int) -> int:
        """Return the signed 64-bit number at `address`; FaultError."""
        return int(struct.unpack("<q", self.read(address, 8))[0])

    def pointer(self, address: int) -> Number:
        """Return the pointer at `address`, which prints with what it points to; FaultError."""
        return self.name(self.u64(address))

    def string(self, address: int, limit: int = 4096) -> str:
        r"""Return the text up to the next zero byte, or the first `limit` bytes of it.

        Bytes that are not UTF-8 stand as `\xNN`. Print its `repr`: it is the target's text.

        Raises:
            FaultError: nothing is known at `address`.
        """
        data = self.space.read(address, min(limit, _MAX_STRING))
        if not data and limit:
            self.read(address, 1)
        return data.partition(b"\0")[0].decode("utf-8", "backslashreplace")

    def search(
        self, needle: bytes, start: int = 0, end: int = _TOP, *, limit: int = 1000
    ) -> Iterator[Number]:
        """Yield the addresses in [start, end) at which `needle` stands, `limit` of them at most.

        Everything that is known is searched, in chunks of 1 MiB; memory that was never touched is
        not read. A needle of zeros only is refused (ValueError): it stands everywhere.
        """
        if not needle.strip(b"\0") or len(needle) > _CHUNK:
            raise ValueError("look for 1 byte to 1 MiB, not all of them zero")
        for count, address in enumerate(self._find_bytes(needle, start, end)):
            if count >= limit:
                return
            yield self.name(address)

    def _find_bytes(self, needle: bytes, start: int, end: int) -> Iterator[int]:
        overlap = len(needle) - 1
        carry, expected = b"", start
        for address, chunk in self._chunks(start, end, overlap):
            carry = carry if expected == address else b""
            data, base = carry + chunk, address - len(carry)
            found = data.find(needle)
            while found >= 0:
                yield base + found
                found = data.find(needle, found + 1)
            carry = data[max(len(data) - overlap, 0) :] if overlap else b""
            expected = base + len(data)

    def _chunks(self, start: int, end: int, overlap: int) -> Iterator[tuple[int, bytes]]:
        """Yield (address, bytes) of what is known; of zeros only `overlap` bytes at each end."""
        for piece in self.space.pieces(start, end):
            if piece.source == ZEROS and piece.end - piece.start > 2 * overlap:
                yield piece.start, bytes(overlap)
                yield piece.end - overlap, bytes(overlap)
            elif piece.is_known:
                for part in split_piece(piece, _CHUNK):
                    yield part.start, self.space.read_piece(part)


def split_piece(piece: Piece, size: int) -> Iterator[Piece]:
    """Yield a piece in parts of at most `size` bytes."""
    for start in range(piece.start, piece.end, size):
        past, end = start - piece.start, min(start + size, piece.end)
        data = piece.data[past : past + end - start]
        yield piece._replace(start=start, end=end, offset=piece.offset + past, data=data)

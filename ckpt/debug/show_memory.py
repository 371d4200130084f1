"""`show --memory`: the bytes at an address or symbol, in hex, as instructions, or as a string.

Everything is made piece by piece and chunk by chunk, however long the range is; what an image does
not hold is said where it would stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.disasm import iter_disasm
from ckpt.debug.show_maps import area_name, human, permissions
from ckpt.debug.stored import ZEROS, Piece
from ckpt.debug.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.show_place import Spot
    from ckpt.debug.symbols import AddressSpace

_CHUNK: Final = 1 << 16
_ROW: Final = 16
_FEW_ZEROS: Final = 4096
"""More zeros that were never written than this are one line."""
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_AS_TEXT: Final = bytes(code if code in _PRINTABLE else ord(".") for code in range(256))
_C_ESCAPES: Final = {
    "\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\a": "\\a", "\b": "\\b",
    "\f": "\\f", "\v": "\\v",
}  # fmt: skip


def head_line(space: AddressSpace, spot: Spot) -> str:
    """Return what the range is: symbol, area and how much of it is there."""
    place = space.locate(spot.start) or "not mapped"
    area = space.find_area(spot.start)
    inside = ""
    if area is not None:
        name = area_name(area, space)
        inside = f", area {area.start:x}-{area.end:x} {permissions(area.flags)} {name}".rstrip()
    note = f" ({spot.note})" if spot.note else ""
    return f"{spot.start:#x}: {place}{note}{inside}, {spot.end - spot.start} bytes"


def hex_lines(space: AddressSpace, spot: Spot) -> Iterator[str]:
    """Yield the bytes as xxd does; equal lines in a row are one `*`."""
    dump = _HexDump(spot.start)
    for piece in space.pieces(spot.start, spot.end):
        if not piece.is_known:
            yield from dump.flush()
            yield gap_line(piece)
        elif piece.source == ZEROS and piece.end - piece.start > _FEW_ZEROS:
            yield from dump.flush()
            yield f"-- {_span(piece)}: zeros, never written"
        else:
            for chunk, data in _chunks(space, piece):
                yield from dump.add(chunk.start, data)
                if len(data) < chunk.end - chunk.start:
                    yield from dump.flush()
                    yield gap_line(chunk._replace(start=chunk.start + len(data), source="not read"))
    yield from dump.flush()


class _HexDump:
    """Lines of 16 bytes, across the borders of pieces."""

    def __init__(self, start: int) -> None:
        self._at = start
        self._rest = b""
        self._last = b""
        self._folded = False

    def add(self, start: int, data: bytes) -> Iterator[str]:
        """Take bytes that stand at `start`; yield the lines that they complete."""
        if not self._rest:
            self._at = start
        data = self._rest + data
        whole = len(data) - len(data) % _ROW
        for at in range(0, whole, _ROW):
            row = data[at : at + _ROW]
            if row == self._last:
                if not self._folded:
                    yield "*"
                self._folded = True
            else:
                yield _hex_row(self._at + at, row)
                self._last, self._folded = row, False
        self._at += whole
        self._rest = data[whole:]

    def flush(self) -> Iterator[str]:
        """Yield the last line, and forget what came before."""
        if self._rest:
            yield _hex_row(self._at, self._rest)
        elif self._folded:
            yield _hex_row(self._at - _ROW, self._last)
        self._rest = self._last = b""
        self._folded = False


def _hex_row(address: int, row: bytes) -> str:
    return f"{address:012x}: {row.hex(' ', -2):<39}  {row.translate(_AS_TEXT).decode('ascii')}"


def gap_line(piece: Piece) -> str:
    """Return the line that stands for bytes that are not known."""
    return f"-- {_span(piece)}: {escape(piece.source)}"


def _span(piece: Piece) -> str:
    size = piece.end - piece.start
    return f"{piece.start:#x}-{piece.end:#x} ({human(size)})"


def _chunks(space: AddressSpace, piece: Piece) -> Iterator[tuple[Piece, bytes]]:
    for start in range(piece.start, piece.end, _CHUNK):
        past, end = start - piece.start, min(start + _CHUNK, piece.end)
        data = piece.data[past : past + end - start]
        part = piece._replace(start=start, end=end, offset=piece.offset + past, data=data)
        yield part, space.read_piece(part)


def disasm_lines(space: AddressSpace, spot: Spot) -> Iterator[str]:
    """Yield the instructions that begin in the range, with the names of functions above them."""
    for start, end, gap in _code_runs(space, spot):
        if gap is not None:
            yield gap if isinstance(gap, str) else gap_line(gap)
            continue
        for line in iter_disasm(space, start, end):
            name = space.symbol_at(line.address, space.module_at(line.address))
            if name and "+" not in name:
                yield f"<{name}>:"
            yield line.render()


def _code_runs(space: AddressSpace, spot: Spot) -> Iterator[tuple[int, int, Piece | str | None]]:
    """Yield (start, end, None) for what can be decoded in one go, else what stands for a piece."""
    start = end = spot.start
    for piece in space.pieces(spot.start, spot.end):
        if piece.is_known and piece.source != ZEROS:
            end = piece.end
            continue
        if start < end:
            yield start, end, None
        zeros = f"-- {_span(piece)}: zeros, never written"
        yield piece.start, piece.end, zeros if piece.source == ZEROS else piece
        start = end = piece.end
    if start < end:
        yield start, end, None


def string_line(space: AddressSpace, spot: Spot) -> str:
    """Return the C string at the start of the range, quoted, and why it is cut if it is."""
    data = bytearray()
    for piece in space.pieces(spot.start, spot.end):
        if not piece.is_known:
            return f"{c_string(bytes(data))}... {escape(piece.source)} from {piece.start:#x}"
        for chunk, found in _chunks(space, piece):
            head, zero, _ = found.partition(b"\0")
            data += head
            if zero:
                return c_string(bytes(data))
            if len(found) < chunk.end - chunk.start:
                return f"{c_string(bytes(data))}... not readable"
    return f"{c_string(bytes(data))}... no end within {spot.end - spot.start} bytes"


def c_string(data: bytes) -> str:
    """Return bytes as a C string literal that is safe to print."""
    text = data.decode("utf-8", "surrogateescape")
    return f'"{escape("".join(_C_ESCAPES.get(char, char) for char in text))}"'


def plain_pieces(space: AddressSpace, spot: Spot) -> Iterator[dict[str, Any]]:
    """Yield the range for JSON: its pieces in chunks, each with its bytes in hex if they are known.

    Zeros that were never written have no bytes.
    """
    for piece in space.pieces(spot.start, spot.end):
        if not piece.is_known or piece.source == ZEROS:
            yield {"start": piece.start, "end": piece.end, "source": escape(piece.source)}
            continue
        for chunk, data in _chunks(space, piece):
            end = chunk.start + len(data)
            yield {
                "start": chunk.start,
                "end": end,
                "source": chunk.source,
                "hex": data.hex(),
            }
            if end < chunk.end:
                yield {"start": end, "end": chunk.end, "source": "not readable"}


def plain_code(space: AddressSpace, spot: Spot) -> Iterator[dict[str, Any]]:
    """Yield the instructions of the range for JSON, and what cannot be decoded."""
    for start, end, gap in _code_runs(space, spot):
        if gap is not None:
            source = ZEROS if isinstance(gap, str) else escape(gap.source)
            yield {"start": start, "end": end, "source": source}
            continue
        for line in iter_disasm(space, start, end):
            yield line.plain()

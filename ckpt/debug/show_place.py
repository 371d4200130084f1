"""Where `show --memory ADDR[:LEN]` points: an address, or a symbol of the process."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.text import escape
from ckpt.errors import CkptError

if TYPE_CHECKING:
    from ckpt.debug.space import Module
    from ckpt.debug.symbols import AddressSpace

DEFAULT_BYTES: Final = 256
_ADDRESS_END: Final = 1 << 64
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30}
_LENGTH: Final = re.compile(r"(0x[0-9a-f]+|[0-9]+)([kmg]?)", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"0x[0-9a-f]+|[0-9]+", re.IGNORECASE)
_OFFSET: Final = re.compile(r"(.+?)([+-])(0x[0-9a-fA-F]+|[0-9]+)")
_BARE_HEX: Final = re.compile(r"[0-9a-fA-F]{6,16}")


class Range(NamedTuple):
    """What was asked for: a place as it was written, and how many bytes of it."""

    place: str
    size: int


class Spot(NamedTuple):
    """A range of addresses; half-open."""

    start: int
    end: int
    note: str = ""
    """What else the name may have meant."""


def parse_range(text: str) -> Range:
    """Parse `ADDR[:LEN]`; LEN is hex or decimal, with K, M or G behind it for binary units.

    Raises:
        ValueError: it is neither.
    """
    place, colon, length = text.rpartition(":")
    match = _LENGTH.fullmatch(length) if colon else None
    if match is None:
        place, size = text, DEFAULT_BYTES
    else:
        size = _parse_number(match[1]) << _UNITS[match[2].lower()]
    if not place or place.strip(":") != place or not 0 < size <= _ADDRESS_END:
        raise ValueError(f"{text}: not ADDR or ADDR:LEN")
    is_number = _ADDRESS.fullmatch(place) or _BARE_HEX.fullmatch(place)
    if place[0].isdigit() and not is_number:
        raise ValueError(f"{place}: not an address")
    return Range(place, size)


def _parse_number(text: str) -> int:
    return int(text, 16 if text[:2] in ("0x", "0X") else 10)


def find_spot(space: AddressSpace, wanted: Range) -> Spot:
    """Return the range of addresses that was meant.

    Raises:
        CkptError: there is no such symbol, or it lies outside of the address space.
    """
    start, note = _find_place(space, wanted.place)
    if not 0 <= start < _ADDRESS_END:
        raise CkptError("is not a 64-bit address", where=wanted.place)
    return Spot(start, min(start + wanted.size, _ADDRESS_END), note)


def _find_place(space: AddressSpace, place: str) -> tuple[int, str]:
    if _ADDRESS.fullmatch(place):
        return _parse_number(place), ""
    found = _find_symbol(space, place)
    if found is None:
        offset = _OFFSET.fullmatch(place)
        found = _find_symbol(space, offset[1]) if offset else None
        if found is not None and offset:
            distance = _parse_number(offset[3]) * (-1 if offset[2] == "-" else 1)
            found = found[0] + distance, found[1]
    if found is None and _BARE_HEX.fullmatch(place):
        return int(place, 16), ""
    if found is None:
        raise _no_symbol(space, place)
    return found


def _find_symbol(space: AddressSpace, name: str) -> tuple[int, str] | None:
    """Find `name` or `file:name`; several files may have it, the first in memory is taken."""
    file, colon, bare = name.rpartition(":")
    found = []
    for module in space.modules():
        if module.symbols is None or (colon and not _is_named(module, file)):
            continue
        symbol = module.symbols.find_name(bare)
        if symbol is not None:
            found.append((symbol.value + module.bias, module.path))
    if not found:
        return None
    others = [escape(path.rpartition("/")[2]) for _, path in found[1:4]]
    return found[0][0], f"also in {', '.join(others)}" if others else ""


def _is_named(module: Module, name: str) -> bool:
    return name in (module.path, module.path.rpartition("/")[2])


def _no_symbol(space: AddressSpace, place: str) -> CkptError:
    missing = [
        f"{escape(module.path)} {escape(module.problem)}"
        for module in space.modules()
        if module.problem
    ]
    hint = "give an address as 0x..., or a symbol as FILE:NAME or NAME+OFFSET"
    if missing:
        hint += f"; no symbols of: {'; '.join(missing[:5])}"
    return CkptError("no such symbol", where=escape(place), hint=hint)

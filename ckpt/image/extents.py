"""Extents: which pages of a memory object an image holds.

An array('Q') of (start, length_bytes) pairs, flat: the same bytes as an array of `struct iovec` on
a 64-bit little-endian machine. Start is an address in an mm, or an offset in a shared object.
"""

from __future__ import annotations

import operator
import sys
from array import array
from bisect import bisect_right
from functools import reduce
from itertools import accumulate, islice
from typing import Final

MAX_ADDRESS: Final = 1 << 63
"""File offsets are signed; no user address of a supported architecture reaches this either."""

_CHUNK: Final = 1 << 17
"""Array items looked at in one go: bounds the copies that the checks make, keeps them in cache."""


def total_bytes(extents: array[int]) -> int:
    """Return the sum of the lengths."""
    return sum(sum(extents[i + 1 : i + _CHUNK : 2]) for i in range(0, len(extents), _CHUNK))


def split_extents(extents: array[int], first_bytes: int) -> tuple[array[int], array[int]]:
    """Cut `extents` in two, so that the first part has `first_bytes`; one extent may be cut."""
    ends = list(accumulate(extents[1::2]))
    at = bisect_right(ends, first_bytes)
    first, second = extents[: 2 * at], extents[2 * at :]
    missing = first_bytes - (ends[at - 1] if at else 0)
    if missing:
        first.extend((second[0], missing))
        second[0], second[1] = second[0] + missing, second[1] - missing
    return first, second


def find_fault(extents: array[int], expected_bytes: int, page_size: int) -> str | None:
    """Return what is wrong with `extents`, None if nothing is.

    They must be page aligned, not empty, in order, without overlap, and `expected_bytes` in sum.
    No Python code runs per extent: 260,000 take about 50 ms.
    """
    if len(extents) % 2:
        return "extents are not pairs"
    previous_end = 0
    total = 0
    for i in range(0, len(extents), _CHUNK):
        chunk = extents[i : i + _CHUNK]
        starts, lengths = chunk[0::2], chunk[1::2]
        if reduce(operator.or_, chunk) & (page_size - 1):
            return "an extent is not page aligned"
        if min(lengths) == 0:
            return "an extent is empty"
        ends = map(operator.add, starts, lengths)
        if starts[0] < previous_end or not all(map(operator.le, ends, islice(starts, 1, None))):
            return "extents overlap or are out of order"
        previous_end = starts[-1] + lengths[-1]
        total += sum(lengths)
    if previous_end > MAX_ADDRESS:
        return "an extent ends beyond the address space"
    if total != expected_bytes:
        return f"extents cover {total} bytes of {expected_bytes}"
    return None


def to_little_endian(extents: array[int]) -> array[int]:
    """Return the extents as the file stores them; the same object on little-endian machines."""
    if sys.byteorder == "little":
        return extents
    swapped = array("Q", extents)
    swapped.byteswap()
    return swapped


def from_little_endian(data: memoryview) -> array[int]:
    """Return the extents that the file stores as `data`."""
    extents = array("Q")
    extents.frombytes(data)
    if sys.byteorder != "little":
        extents.byteswap()
    return extents

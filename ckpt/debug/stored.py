"""Where the bytes of a range of addresses are: in the image, in a mapped file, nowhere.

Pure look-ups; nothing is read here. A range of gigabytes is a few pieces.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence

IMAGE, FILE, ZEROS, RECORD = "image", "file", "zeros", "record"


class Piece(NamedTuple):
    """A range of addresses whose bytes come from one place; half-open."""

    start: int
    end: int
    source: str
    """`image`, `file`, `record` (in `data`), `zeros` (never written); else why it is not known."""
    offset: int = 0
    """In the image or the mapped file, of the first byte."""
    file: int = -1
    """Index of the mapped file, for `file`."""
    data: bytes = b""

    @property
    def is_known(self) -> bool:
        """Tell whether the bytes can be had."""
        return self.source in (IMAGE, FILE, ZEROS, RECORD)


class Extents:
    """The extents of one page object: where in the image the byte of an address (or offset) is."""

    def __init__(self, extents: array[int] | None = None, file_offset: int = 0) -> None:
        """Take flat (start, length) pairs, and where the first one's bytes stand."""
        pairs: Sequence[int] = extents if extents is not None else ()
        self._starts, lengths = pairs[0::2], pairs[1::2]
        self._ends: list[int] = list(map(operator.add, self._starts, lengths))
        self._offsets = list(accumulate(lengths, initial=file_offset))

    def find(self, start: int, end: int) -> tuple[int, int]:
        """Return (how many bytes from `start` are stored, where), or (-n, 0): n bytes are not."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and start < self._ends[index]:
            found = min(end, self._ends[index]) - start
            return found, self._offsets[index] + start - self._starts[index]
        following = index + 1
        limit = self._starts[following] if following < len(self._starts) else end
        return -(min(limit, end) - start), 0

    def total_within(self, start: int, end: int) -> int:
        """Return how many bytes of [start, end) are stored."""
        first = bisect_right(self._ends, start)
        last = bisect_right(self._starts, end - 1)
        if start >= end or first >= last:
            return 0
        total = self._offsets[last] - self._offsets[first]
        total -= max(start - self._starts[first], 0)
        return total - max(self._ends[last - 1] - end, 0)

    def iter_extents(self) -> Iterator[tuple[int, int, int]]:
        """Yield (start, end, file offset) of every extent."""
        yield from zip(self._starts, self._ends, self._offsets, strict=False)

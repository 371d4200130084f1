"""Reads a BPF ring buffer in whole stretches, without a call into libbpf for every event.

Layout: kernel/bpf/ringbuf.c (6.18): a page with the consumer's position, which alone may be mapped
writable, a page with the producer's, then the data, mapped twice in a row so that a record that
wraps around lies in one piece.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from ckpt.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY: Final = 1 << 31
_DISCARDED: Final = 1 << 30
_LENGTH_MASK: Final = _DISCARDED - 1
"""BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT; include/uapi/linux/bpf.h."""
_HEADER_BYTES: Final = 8
"""BPF_RINGBUF_HDR_SZ"""


class RingReader:
    """The one reader of a ring buffer map of `size_bytes`; close it before the map."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        """Map the buffer. Raises HostError."""
        page = mmap.PAGESIZE
        try:
            self._own = mmap.mmap(fd, page, flags=mmap.MAP_SHARED)
            self._shared = mmap.mmap(
                fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page
            )
        except OSError as error:
            raise HostError("cannot be mapped", where="BPF ring", errno=error.errno) from error
        self._consumed = memoryview(self._own).cast("Q")
        self._produced = memoryview(self._shared)[:8].cast("Q")
        self._data = memoryview(self._shared)[page:]
        self._mask = size_bytes - 1

    def close(self) -> None:
        """Unmap the buffer."""
        for view in (self._consumed, self._produced, self._data):
            view.release()
        self._own.close()
        self._shared.close()

    def read(self) -> Iterator[bytes]:
        """Yield the records that are complete, oldest first; space is free again when it ends."""
        start, end = self._consumed[0], self._produced[0]
        at = start & self._mask
        # One copy: what is yielded has to outlive the space that it took.
        chunk = bytes(self._data[at : at + end - start])
        words = memoryview(chunk).cast("I")
        position, length = 0, len(chunk)
        while position < length:
            header = words[position >> 2]
            if header & _BUSY:
                break
            size = header & _LENGTH_MASK
            if not header & _DISCARDED:
                yield chunk[position + _HEADER_BYTES : position + _HEADER_BYTES + size]
            position += (_HEADER_BYTES + size + 7) & ~7
        self._consumed[0] = start + position

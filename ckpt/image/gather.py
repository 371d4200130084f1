"""Reads many extents of a source through one bounded buffer, in as few calls as the kernel allows.

An extents array is also an array of `struct iovec`, so a batch of small extents of a living task is
one process_vm_readv(2) without a Python object per extent.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from ckpt.errors import CaptureError

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator

    Vector = Callable[[int, int], int]
    """(index into the extents array, number of extents) -> bytes read into the buffer."""

BUFFER_BYTES: Final = 1 << 20
"""Small enough to stay in the CPU's cache between reading and writing or hashing it."""

_BATCH: Final = BUFFER_BYTES // 4096
"""Extents looked at in one go: that many single pages fill the buffer. Below IOV_MAX (1024)."""


def read_extents(source_fd: int, extents: array[int], tid: int = 0) -> Iterator[memoryview]:
    """Yield the bytes of all `extents` of `source_fd`, in order, in parts of at most 1 MiB.

    A part is valid until the next one is asked for. `tid` is a thread whose memory `source_fd`
    (/proc/TID/mem) shows; it only makes reading faster. Raises CaptureError.
    """
    buffer = bytearray(BUFFER_BYTES)
    view = memoryview(buffer)
    vector = _make_vector(tid, buffer, extents) if tid else None
    i = 0
    while i < len(extents):
        ends = list(accumulate(extents[i + 1 : i + 2 * _BATCH : 2]))
        count = bisect_right(ends, BUFFER_BYTES)
        if count == 0:
            yield from _read_long(source_fd, view, extents[i], ends[0])
            i += 2
            continue
        total = ends[count - 1]
        # Not all of it: some page is PROT_NONE, or the call is not allowed. mem reads both.
        if vector is None or vector(i, count) != total:
            _read_each(source_fd, view, extents[i : i + 2 * count])
        yield view[:total]
        i += 2 * count


def _read_long(source_fd: int, view: memoryview, address: int, length: int) -> Iterator[memoryview]:
    while length:
        part = view[: min(length, BUFFER_BYTES)]
        _read_part(source_fd, part, address)
        yield part
        address, length = address + len(part), length - len(part)


def _read_each(source_fd: int, view: memoryview, extents: array[int]) -> None:
    filled = 0
    for address, length in zip(extents[0::2], extents[1::2], strict=True):
        _read_part(source_fd, view[filled : filled + length], address)
        filled += length


def _read_part(source_fd: int, part: memoryview, address: int) -> None:
    while part:
        try:
            got = os.preadv(source_fd, [part], address)
        except OSError as error:
            what = f"cannot read {len(part)} bytes"
            where = f"memory at {address:#x}"
            raise CaptureError(what, where=where, errno=error.errno) from error
        if got == 0:
            raise CaptureError("ends inside an extent", where=f"memory at {address:#x}")
        part, address = part[got:], address + got


def _make_vector(tid: int, buffer: bytearray, extents: array[int]) -> Vector:
    # Imported here: only a snapshot of a living task needs ctypes.
    import ctypes

    from ckpt.host.syscalls import SYS_PROCESS_VM_READV, syscall

    pinned = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(pinned), len(buffer))
    remote = extents.buffer_info()[0]
    item_bytes = extents.itemsize

    def read(index: int, count: int) -> int:
        try:
            return syscall(
                SYS_PROCESS_VM_READV,
                tid,
                ctypes.addressof(local),
                1,
                remote + index * item_bytes,
                count,
                0,
            )
        except OSError:
            # The caller reads the batch in the other way, which reports what is wrong with it.
            return -1

    return read

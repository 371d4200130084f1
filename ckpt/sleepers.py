"""The remaining time that an interrupted nanosleep writes: read before the stop, put back after it.

A stop makes nanosleep(2) store what remained through its `rmtp` pointer (kernel/time/hrtimer.c,
nanosleep_copyout), though the program was never told of an interruption. Programs that pass the
same structure for request and remainder would see their request changed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.host.kernel_view import ThreadView

_RMTP_ARGUMENT: Final = {35: 1, 230: 3}
"""nanosleep, clock_nanosleep of x86_64 -> which argument is rmtp."""
_TIMESPEC_BYTES: Final = 16


class Remainder(NamedTuple):
    """What stood where a sleeping thread's call would store the remaining time."""

    nr: int
    rsp: int
    address: int
    content: bytes


def read_remainders(tgid: int, views: Iterable[ThreadView]) -> dict[int, Remainder]:
    """Read the remainders of all threads that sleep now, by tid."""
    found = {}
    for view in views:
        if view.regs is not None and view.regs.orig_ax in _RMTP_ARGUMENT:
            remainder = _read_remainder(tgid, view.tid)
            if remainder is not None:
                found[view.tid] = remainder
    return found


def _read_remainder(tgid: int, tid: int) -> Remainder | None:
    try:
        with open(f"/proc/{tgid}/task/{tid}/syscall", "rb") as file:
            words = file.read().split()
        nr = int(words[0])
        address = int(words[1 + _RMTP_ARGUMENT[nr]], 16)
        if not address:
            return None
        with open(f"/proc/{tgid}/task/{tid}/mem", "rb", buffering=0) as memory:
            content = os.pread(memory.fileno(), _TIMESPEC_BYTES, address)
    except (OSError, ValueError, KeyError, IndexError):
        # It woke up, or ended, or the pointer leads nowhere: then nothing was stored there either.
        return None
    return Remainder(nr, int(words[-2], 16), address, content)


def put_back(memory_fd: int, remainder: Remainder, nr: int, rsp: int) -> None:
    """Undo the store of a stopped thread, if it is still in the call that was looked at."""
    if (remainder.nr, remainder.rsp) == (nr, rsp) and len(remainder.content) == _TIMESPEC_BYTES:
        os.pwrite(memory_fd, remainder.content, remainder.address)

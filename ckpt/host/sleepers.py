"""The remaining time that an interrupted nanosleep writes: read before the stop, put back after it.

A stop makes nanosleep(2) store what remained through its `rmtp` pointer (kernel/time/hrtimer.c,
nanosleep_copyout), though the program was never told of an interruption. Programs that pass the
same structure for request and remainder would see their request changed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.arch.x86_64.restart import TS_COMPAT
from ckpt.host.kernel_view import NanosleepRestart

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.host.kernel_view import ThreadView


class _Where(NamedTuple):
    argument: int
    size_bytes: int


_RMTP: Final = {35: _Where(1, 16), 230: _Where(3, 16)}
"""nanosleep, clock_nanosleep of x86_64: which argument is rmtp, and what it points to."""
_RMTP_I386: Final = {162: _Where(1, 8), 267: _Where(3, 8), 407: _Where(3, 16)}
"""nanosleep, clock_nanosleep, clock_nanosleep_time64, made by int 0x80."""
_RESTART_SYSCALL: Final = {False: 219, True: 0}
_BLOCK_BYTES: Final = {1: 16, 2: 8}
"""restart_block.nanosleep.type -> size: TT_NATIVE, TT_COMPAT (include/linux/restart_block.h)."""


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
        remainder = _read_remainder(tgid, view)
        if remainder is not None:
            found[view.tid] = remainder
    return found


def _read_remainder(tgid: int, view: ThreadView) -> Remainder | None:
    if view.regs is None:
        return None
    compat = bool((view.ti_status or 0) & TS_COMPAT)
    nr = view.regs.orig_ax
    try:
        if nr == _RESTART_SYSCALL[compat] and isinstance(view.restart, NanosleepRestart):
            address, size = view.restart.rmtp, _BLOCK_BYTES[view.restart.rmtp_type]
        else:
            where = (_RMTP_I386 if compat else _RMTP)[nr]
            address, size = _read_argument(tgid, view.tid, nr, where.argument), where.size_bytes
        if not address:
            return None
        with open(f"/proc/{tgid}/task/{view.tid}/mem", "rb", buffering=0) as memory:
            content = os.pread(memory.fileno(), size, address)
    except (OSError, ValueError, KeyError, IndexError):
        # No sleep; or it woke up, or ended, or the pointer leads nowhere: nothing is stored.
        return None
    return Remainder(nr, view.regs.sp, address, content) if len(content) == size else None


def _read_argument(tgid: int, tid: int, nr: int, argument: int) -> int:
    """Return an argument of the call that a blocked thread is in; 0 if it is in another now."""
    with open(f"/proc/{tgid}/task/{tid}/syscall", "rb") as file:
        words = file.read().split()
    return int(words[1 + argument], 16) if int(words[0]) == nr else 0


def put_back(memory_fd: int, remainder: Remainder, nr: int, rsp: int) -> None:
    """Undo the store of a stopped thread, if it is still in the call that was looked at."""
    if (remainder.nr, remainder.rsp) == (nr, rsp):
        os.pwrite(memory_fd, remainder.content, remainder.address)

"""Restart blocks for people, and the time that is left on the host's clocks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ckpt.arch.x86_64.syscalls import syscall_name
from ckpt.debug.call_flags import name_value
from ckpt.debug.inspect_types import Restart
from ckpt.host.kernel_view import CpuSleepRestart, FutexRestart, NanosleepRestart, PollRestart

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt.host.kernel_view import RestartBlock, ThreadView

_ERESTART_RESTARTBLOCK: Final = -516
_FLAGS_CLOCKRT: Final = 0x20
"""kernel/futex/futex.h, 6.18."""
_REALTIME: Final = 0
_MONOTONIC: Final = 1
_CLOCKS: Final = {
    0: time.CLOCK_REALTIME,
    1: time.CLOCK_MONOTONIC,
    7: time.CLOCK_BOOTTIME,
    8: time.CLOCK_REALTIME,
    9: time.CLOCK_BOOTTIME,
    11: time.CLOCK_TAI,
}
"""CLOCK_* to one that we can read."""


def describe_restart(
    view: ThreadView, name_pointer: Callable[[int], str], observed_ns: int, *, is_i386: bool
) -> Restart | None:
    """Describe a thread's restart block; None: none has been armed.

    `observed_ns` (CLOCK_MONOTONIC): as of when the time left is told.
    """
    block, regs = view.restart, view.regs
    if block is None:
        return None
    is_live = False
    if regs is not None:
        nr = signed_32(regs.orig_ax)
        is_again = nr >= 0 and syscall_name(nr, i386=is_i386) == "restart_syscall"
        is_live = is_again or signed_32(regs.ax) == _ERESTART_RESTARTBLOCK
    arguments, clockid, expires_ns = restart_arguments(block, name_pointer)
    left_ns = None if clockid is None else time_left_ns(clockid, expires_ns, observed_ns)
    return Restart(block.fn, arguments, left_ns, is_live)


def restart_arguments(
    block: RestartBlock, name_pointer: Callable[[int], str]
) -> tuple[dict[str, str], int | None, int | None]:
    """Return the arguments as text, and the clock and time of the deadline."""
    if isinstance(block, NanosleepRestart | CpuSleepRestart):
        arguments = {"clock": clock_name(block.clockid), "rmtp": name_pointer(block.rmtp)}
        return arguments, block.clockid, block.expires_ns
    if isinstance(block, FutexRestart):
        clock = _REALTIME if block.flags & _FLAGS_CLOCKRT else _MONOTONIC
        arguments = {
            "uaddr": name_pointer(block.uaddr),
            "val": hex(block.val),
            "bitset": hex(block.bitset),
            "flags": hex(block.flags),
            "clock": clock_name(clock),
        }
        return arguments, clock, block.expires_ns
    if isinstance(block, PollRestart):
        arguments = {"ufds": name_pointer(block.ufds), "nfds": str(block.nfds)}
        return arguments, _MONOTONIC, block.expires_ns
    return {}, None, None


def time_left_ns(clockid: int, expires_ns: int | None, observed_ns: int) -> int | None:
    """Return how much before `expires_ns` of a host's clock the observation was.

    None: there is no deadline, or the clock cannot be read by others (CPU clocks).
    """
    clock = _CLOCKS.get(clockid)
    if clock is None or expires_ns is None:
        return None
    since_ns = time.monotonic_ns() - observed_ns
    return expires_ns - (time.clock_gettime_ns(clock) - since_ns)


def clock_name(clockid: int) -> str:
    """Return a clock by name; CPU clocks of tasks are negative numbers."""
    return name_value("clock", clockid) if clockid >= 0 else f"CPU clock {clockid}"


def signed_32(value: int) -> int:
    """Return the low 32 bits as a signed number: system calls' numbers and results."""
    return (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000

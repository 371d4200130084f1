"""Build the call that gives a restored thread its restart_block back.

A fresh task answers -516 with EINTR, because nothing is armed. So the thread enters the call
below with a signal pending (stop at the syscall entry, PTRACE_INTERRUPT, PTRACE_CONT): its body
arms a restart_block and returns -516 at once. Then the thread's own registers are loaded.

The calls are not always those that the program made: they are chosen so that the restart_block
comes out the same, with the remaining time read from ``scratch``, memory of ours that is gone
when the thread goes on. Any other result than -516 is what the kernel would have answered too.
"""

from typing import Final, NamedTuple

from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.syscalls import syscall_number
from ckpt.arch.x86_64.timeouts import (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    FUTEX_CLOCK_REALTIME,
    FUTEX_WAIT,
    Where,
    encode_milliseconds,
    encode_time,
)

SCRATCH_SIZE: Final = 16
SCRATCH_END_INT80: Final = 1 << 32
"""Scratch memory of an int80 call must lie below 4 GiB."""

# enum timespec_type of include/linux/restart_block.h
TT_NONE: Final = 0
TT_NATIVE: Final = 1
TT_COMPAT: Final = 2
# enum alarmtimer_type of include/linux/alarmtimer.h, which alarm_timer_nsleep() stores as clockid.
_ALARM_CLOCKS: Final = {0: 8, 1: 9}
_FUTEX_COMMAND: Final = 0xFFFF_FFFF & ~(128 | FUTEX_CLOCK_REALTIME)
_MATCH_ANY: Final = 0xFFFF_FFFF


class Rearm(NamedTuple):
    """A call that arms a restart_block; ``fill`` completes it with the time and the scratch."""

    name: str
    nr: int
    entry: CallEntry
    args: tuple[int, ...]
    where: Where
    arg: int
    """The argument that becomes the scratch address or the milliseconds; -1 for none."""
    absolute: bool
    clock: int
    """The clock that the time counts on, as the restored task itself sees it."""

    def fill(self, scratch: int, time_ns: int) -> tuple[tuple[int, ...], bytes]:
        """Return the call's arguments and the bytes to write at ``scratch`` before it.

        ``time_ns`` is what remains, or the absolute deadline when ``absolute`` is set. A deadline
        in the past becomes 0: the call then answers as it would have at its deadline.
        """
        args = list(self.args)
        if self.where is Where.NONE:
            return self.args, b""
        if self.where is Where.MILLISECONDS:
            args[self.arg] = encode_milliseconds(time_ns)
            return tuple(args), b""
        if self.entry is CallEntry.INT80 and scratch + SCRATCH_SIZE > SCRATCH_END_INT80:
            raise ValueError(f"scratch {scratch:#x}: not below 4 GiB for int 0x80")
        args[self.arg] = scratch
        return tuple(args), encode_time(self.where, time_ns)


def find_clock(fn: str, clockid: int) -> int:
    """Return the clock on which a sleep's ``expires`` counts; alarms store a number of their own.

    Raises ValueError for an alarm number that does not exist.
    """
    if fn != "alarm_timer_nsleep_restart":
        return clockid
    if clockid not in _ALARM_CLOCKS:
        raise ValueError(f"{fn}: no alarm clock {clockid}")
    return _ALARM_CLOCKS[clockid]


def rearm_nanosleep(fn: str, clockid: int, rmtp: int, rmtp_type: int, entry: CallEntry) -> Rearm:
    """Rebuild the block of hrtimer_nanosleep_restart, alarm_timer_... and posix_cpu_....

    ``clockid``, ``rmtp`` and ``rmtp_type`` are restart_block.nanosleep's. The time to fill in is
    what remains on the returned clock.
    """
    clock = find_clock(fn, clockid)
    name, where = "clock_nanosleep", Where.TIMESPEC
    if entry is CallEntry.INT80:
        if rmtp_type == TT_COMPAT:
            where = Where.TIMESPEC32
        else:
            name = "clock_nanosleep_time64"
    rmtp = rmtp if rmtp_type != TT_NONE else 0
    return _build(name, entry, (clock & 0xFFFF_FFFF, 0, 0, rmtp), where, 2, clock=clock)


def rearm_poll(ufds: int, nfds: int, *, has_timeout: bool, entry: CallEntry) -> Rearm:
    """Rebuild the block of do_restart_poll, to the millisecond that poll can be told."""
    if not has_timeout:
        return _build("poll", entry, (ufds, nfds, 0xFFFF_FFFF), Where.NONE, -1)
    return _build("poll", entry, (ufds, nfds, 0), Where.MILLISECONDS, 2)


def rearm_futex(uaddr: int, val: int, bitset: int, op: int, entry: CallEntry) -> Rearm:
    """Rebuild the block of futex_wait_restart.

    ``op`` is the call's own second argument: still in its register, also when it is
    restart_syscall that was interrupted. FUTEX_WAIT takes what remains, FUTEX_WAIT_BITSET the
    absolute deadline.
    """
    relative = op & _FUTEX_COMMAND == FUTEX_WAIT
    clock = CLOCK_REALTIME if op & FUTEX_CLOCK_REALTIME and not relative else CLOCK_MONOTONIC
    name = "futex_time64" if entry is CallEntry.INT80 else "futex"
    args = (uaddr, op, val, 0, 0, _MATCH_ANY if relative else bitset)
    return _build(name, entry, args, Where.TIMESPEC, 3, absolute=not relative, clock=clock)


def _build(
    name: str,
    entry: CallEntry,
    args: tuple[int, ...],
    where: Where,
    arg: int,
    *,
    absolute: bool = False,
    clock: int = CLOCK_MONOTONIC,
) -> Rearm:
    if entry is CallEntry.NONE:
        raise ValueError(f"{name}: cannot be armed without a call instruction")
    nr = syscall_number(name, i386=entry is CallEntry.INT80)
    padded = args + (0,) * (6 - len(args))
    return Rearm(name, nr, entry, padded, where, arg, absolute, clock)

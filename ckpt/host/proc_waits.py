"""What a blocked thread waits for, and until when, from /proc alone.

/proc/TID/syscall has the call with its arguments. When the wait began is `se.exec_start` of
/proc/TID/sched, the moment at which the thread was last taken off its CPU, on that CPU's task
clock. That clock stands still while the host runs something else, so the estimate is late by what
was stolen meanwhile; /proc/timer_list, where it can be read, has the exact times of all sleepers:
the one next to the estimate is taken. A call that woke up and went to sleep again inside (which
only a kernel function's own timer would show) ends late by the time that it had waited before.
"""

from __future__ import annotations

import bisect
import os
import socket
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.arch.x86_64.decode import CALL_SIZE, CallEntry, find_call
from ckpt.arch.x86_64.rearm import TT_COMPAT, TT_NATIVE, TT_NONE
from ckpt.arch.x86_64.syscalls import syscall_name
from ckpt.arch.x86_64.timeouts import Timeout, Where, decode_time, find_timeout
from ckpt.host.kernel_view import (
    BlockedTimer,
    FutexRestart,
    NanosleepRestart,
    PollRestart,
    RestartBlock,
)
from ckpt.host.remote_place import peek
from ckpt.host.status import read_small
from ckpt.host.syscalls import pidfd_getfd

if TYPE_CHECKING:
    from collections.abc import Iterable

_MILLISECOND_NS: Final = 1_000_000
_SLEEPER: Final = b", hrtimer_wakeup,"
_EARLIEST_NS: Final = 3 * _MILLISECOND_NS
_LATEST_NS: Final = 60 * _MILLISECOND_NS
"""How much earlier, or later, than estimated an exact timer may end and still be the one."""

_OPTIONS: Final = {Where.SO_RCVTIMEO: socket.SO_RCVTIMEO, Where.SO_SNDTIMEO: socket.SO_SNDTIMEO}
CLOCKS: Final = {
    time.CLOCK_REALTIME: time.CLOCK_REALTIME,
    time.CLOCK_MONOTONIC: time.CLOCK_MONOTONIC,
    time.CLOCK_BOOTTIME: time.CLOCK_BOOTTIME,
    time.CLOCK_TAI: time.CLOCK_TAI,
    8: time.CLOCK_REALTIME,
    9: time.CLOCK_BOOTTIME,
}
"""Clocks whose time anybody can ask for; 8 and 9 are the alarm clocks."""
_ALARM_TYPES: Final = {8: 0, 9: 1}
"""CLOCK_*_ALARM to enum alarmtimer_type, include/linux/alarmtimer.h."""

# kernel/futex/futex.h, 6.18
_FLAGS_SIZE_32: Final = 0x02
_FLAGS_SHARED: Final = 0x10
_FLAGS_CLOCKRT: Final = 0x20
_FLAGS_HAS_TIMEOUT: Final = 0x40
# include/uapi/linux/futex.h
_FUTEX_WAIT_BITSET: Final = 9
_FUTEX_PRIVATE: Final = 128
_FUTEX_CLOCK_REALTIME: Final = 256
_MATCH_ANY: Final = 0xFFFF_FFFF
_SLEEPS: Final = frozenset(("nanosleep", "clock_nanosleep"))
_INFINITE: Final = 0x8000_0000


class Wait(NamedTuple):
    """A call that a thread is blocked in, and where it was made."""

    nr: int
    args: tuple[int, ...]
    sp: int
    ip: int
    entry: CallEntry
    timeout: Timeout
    name: str
    """"" when it was made by no call instruction that can be read."""

    @property
    def is_sleep(self) -> bool:
        """Tell whether it is nanosleep or clock_nanosleep, of any entry."""
        return self.name.removesuffix("_time64") in _SLEEPS


class Sleep(NamedTuple):
    """How long a thread has been off its CPU."""

    exec_start_ns: int
    """On the task clock of `cpu`."""
    cpu: int


def parse_call(text: bytes) -> tuple[int, tuple[int, ...], int, int] | None:
    """Parse /proc/TID/syscall: number, arguments, rsp, rip; None while the thread runs.

    A thread that is stopped outside of any call has number -1 and no arguments.
    """
    words = text.split()
    if not words or words[0] == b"running":
        return None
    *args, sp, ip = (int(word, 16) for word in words[1:])
    return int(words[0]), tuple(args), sp, ip


def build_wait(nr: int, args: tuple[int, ...], sp: int, ip: int, memory_fd: int) -> Wait:
    """Name the entry by the instruction before `ip`, and find the call's timeout."""
    entry = find_call(peek(memory_fd, ip - CALL_SIZE, CALL_SIZE))
    name = "" if entry is CallEntry.NONE else syscall_name(nr, i386=entry is CallEntry.INT80)
    timeout = find_timeout(name, args, entry) if name else Timeout()
    return Wait(nr, args, sp, ip, entry, timeout, name)


def read_duration_ns(wait: Wait, memory_fd: int, pidfd: int) -> int | None:
    """Return what the call's timeout says: a duration, or a time if it is absolute."""
    where, value = wait.timeout.where, wait.args[wait.timeout.arg] if wait.args else 0
    if where is Where.NONE:
        return None
    if where is Where.MILLISECONDS:
        return (value & 0x7FFF_FFFF) * _MILLISECOND_NS
    if where in _OPTIONS:
        return None if wait.timeout.indirect else _read_option(value, where, pidfd)
    size = 8 if where in (Where.TIMESPEC32, Where.TIMEVAL32) else 16
    content = peek(memory_fd, value, size)
    return decode_time(where, content) if len(content) == size else None


def _read_option(fd: int, where: Where, pidfd: int) -> int | None:
    """Ask the socket for its timeout; None: none is set, or it is no socket."""
    try:
        with socket.socket(fileno=pidfd_getfd(pidfd, fd & 0xFFFF_FFFF)) as copy:
            content = copy.getsockopt(socket.SOL_SOCKET, _OPTIONS[where], 16)
    except OSError:
        return None  # No socket (ENOTSOCK), or it was closed meanwhile.
    return decode_time(Where.TIMEVAL, content) or None


class Timers:
    """The kernel's armed sleepers, and the offset of each CPU's task clock; made once a look."""

    def __init__(self) -> None:
        self._offsets: dict[int, int | None] = {}
        self._expiries: list[tuple[int, int]] | None = None

    def began_ns(self, sleep: Sleep) -> int | None:
        """Return when a sleep began, in our CLOCK_MONOTONIC."""
        if sleep.cpu not in self._offsets:
            self._offsets[sleep.cpu] = measure_task_clock(sleep.cpu)
        offset = self._offsets[sleep.cpu]
        return None if offset is None else sleep.exec_start_ns + offset

    def find_timer(self, timeout: Timeout, estimate_ns: int) -> BlockedTimer:
        """Return the sleeper next to `estimate_ns` (CLOCK_MONOTONIC), or the estimate itself.

        Timeouts of sockets are counted in ticks and are in no list.
        """
        clockid, shift = timeout.clock, clock_offset_ns(timeout.clock)
        if timeout.where in _OPTIONS:
            return BlockedTimer("estimate", clockid, estimate_ns + shift, estimate_ns + shift)
        if self._expiries is None:
            self._expiries = read_timers(_SLEEPER)
        at = bisect.bisect_left(self._expiries, (estimate_ns - _LATEST_NS, 0))
        near = []
        while at < len(self._expiries) and self._expiries[at][0] <= estimate_ns + _EARLIEST_NS:
            near.append(self._expiries[at])
            at += 1
        if not near:
            return BlockedTimer("estimate", clockid, estimate_ns + shift, estimate_ns + shift)
        soft, hard = min(near, key=lambda found: abs(found[0] - estimate_ns))
        return BlockedTimer("hrtimer", clockid, soft + shift, hard + shift)


def clock_offset_ns(clockid: int) -> int:
    """Return clock `clockid` of ours minus CLOCK_MONOTONIC; 0 for clocks that we cannot read."""
    clock = CLOCKS.get(clockid, time.CLOCK_MONOTONIC)
    if clock == time.CLOCK_MONOTONIC:
        return 0
    return time.clock_gettime_ns(clock) - time.monotonic_ns()


def measure_task_clock(cpu: int) -> int | None:
    """Return CLOCK_MONOTONIC minus the task clock of `cpu`, by running there for a moment.

    None: we may not run there, or /proc shows no scheduler figures.
    """
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpu})
        os.sched_yield()  # brings our own se.exec_start up to date
        now_ns = time.monotonic_ns()
        own = parse_exec_start(read_small("/proc/thread-self/sched"))
    except OSError:
        return None
    finally:
        os.sched_setaffinity(0, before)
    return None if own is None else now_ns - own


def parse_exec_start(text: bytes) -> int | None:
    """Return `se.exec_start` of /proc/TID/sched in nanoseconds (printed as milliseconds)."""
    for line in text.splitlines():
        if line.startswith(b"se.exec_start"):
            whole, _, part = line.rpartition(b":")[2].strip().partition(b".")
            return int(whole) * _MILLISECOND_NS + int(part)
    return None


def read_timers(function: bytes) -> list[tuple[int, int]]:
    """Return (earliest, latest) of every armed hrtimer of `function`, sorted, each by its clock.

    Empty where the kernel does not show the list.
    """
    try:
        with open("/proc/timer_list", "rb") as listing:
            return parse_timer_list(listing, function)
    except OSError:
        return []


def parse_timer_list(lines: Iterable[bytes], function: bytes) -> list[tuple[int, int]]:
    """Parse /proc/timer_list (kernel/time/timer_list.c): two lines a timer."""
    found, is_wanted = [], False
    for line in lines:
        if line.startswith(b" #") and not line.startswith(b" # "):
            is_wanted = function in line
        elif is_wanted and line.startswith(b" # expires at "):
            soft, _, hard = line.split()[3].partition(b"-")
            found.append((int(soft), int(hard)))
    return sorted(found)


def build_restart(wait: Wait, value_ns: int | None, expires_ns: int | None) -> RestartBlock | None:
    """Build the restart_block that the kernel made for a call that returned -516.

    `value_ns` is what its timeout said, `expires_ns` when it ends on its clock (host). None: it
    sleeps on a CPU clock, or is restart_syscall: then nobody shows what it sleeps for.
    """
    name = wait.name.removesuffix("_time64")
    if name == "poll":
        finite = not wait.args[2] & _INFINITE
        if finite and expires_ns is None:
            return None
        ends = expires_ns if finite else None
        return PollRestart("do_restart_poll", wait.args[0], wait.args[1] & 0xFFFF_FFFF, ends)
    if expires_ns is None or value_ns is None or wait.timeout.clock not in CLOCKS:
        return None
    if wait.is_sleep:
        return _build_sleep(name, wait, expires_ns)
    return _build_futex(wait, expires_ns) if name == "futex" else None


def _build_sleep(name: str, wait: Wait, expires_ns: int) -> NanosleepRestart:
    rmtp = wait.args[1 if name == "nanosleep" else 3]
    native = TT_COMPAT if wait.timeout.where is Where.TIMESPEC32 else TT_NATIVE
    clockid = wait.timeout.clock
    fn = "hrtimer_nanosleep_restart"
    if clockid in _ALARM_TYPES:
        fn, clockid = "alarm_timer_nsleep_restart", _ALARM_TYPES[clockid]
    return NanosleepRestart(fn, clockid, native if rmtp else TT_NONE, rmtp, expires_ns)


def _build_futex(wait: Wait, expires_ns: int) -> FutexRestart:
    op = wait.args[1]
    flags = _FLAGS_SIZE_32 | _FLAGS_HAS_TIMEOUT
    flags |= 0 if op & _FUTEX_PRIVATE else _FLAGS_SHARED
    flags |= _FLAGS_CLOCKRT if op & _FUTEX_CLOCK_REALTIME else 0
    has_bitset = op & ~(_FUTEX_PRIVATE | _FUTEX_CLOCK_REALTIME) == _FUTEX_WAIT_BITSET
    bitset = wait.args[5] & _MATCH_ANY if has_bitset else _MATCH_ANY
    value = wait.args[2] & 0xFFFF_FFFF
    return FutexRestart("futex_wait_restart", wait.args[0], value, flags, bitset, 0, expires_ns)

"""Where each blocking system call keeps its timeout, as data; how a timeout is encoded.

A call's arguments are numbered from 0. Sources: the prototypes in include/linux/syscalls.h and
the bodies in fs/select.c, fs/eventpoll.c, fs/aio.c, kernel/futex, kernel/signal.c, kernel/time,
ipc/sem.c, ipc/mqueue.c, net/socket.c of Linux 6.x.
"""

import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.regs import X86Regs

CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
TIMER_ABSTIME: Final = 1

# include/uapi/linux/futex.h
FUTEX_WAIT: Final = 0
FUTEX_LOCK_PI: Final = 6
FUTEX_WAIT_BITSET: Final = 9
FUTEX_WAIT_REQUEUE_PI: Final = 11
FUTEX_LOCK_PI2: Final = 13
FUTEX_CLOCK_REALTIME: Final = 256
_FUTEX_FLAGS: Final = 128 | FUTEX_CLOCK_REALTIME
_FUTEX_TIMED: Final = {
    FUTEX_WAIT,
    FUTEX_LOCK_PI,
    FUTEX_WAIT_BITSET,
    FUTEX_WAIT_REQUEUE_PI,
    FUTEX_LOCK_PI2,
}


class Where(StrEnum):
    """The place and the form of a timeout."""

    NONE = "none"
    TIMESPEC = "timespec"
    """The argument points to two 64-bit numbers, seconds and nanoseconds."""
    TIMEVAL = "timeval"
    """The argument points to two 64-bit numbers, seconds and microseconds."""
    TIMESPEC32 = "timespec32"
    """The argument points to two 32-bit numbers (old_timespec32)."""
    TIMEVAL32 = "timeval32"
    MILLISECONDS = "milliseconds"
    """The argument itself is a signed 32-bit number of milliseconds."""
    SO_RCVTIMEO = "SO_RCVTIMEO"
    """An option of the socket whose descriptor is the argument."""
    SO_SNDTIMEO = "SO_SNDTIMEO"


class Timeout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The timeout of one call in progress. ``NONE`` means that it waits without limit."""

    where: Where = Where.NONE
    arg: int = -1
    absolute: bool = False
    clock: int = CLOCK_MONOTONIC
    indirect: bool = False
    """The argument lies in the array of 32-bit words that i386 socketcall's argument 1 names."""
    remainder: int = 0
    """Where the kernel has written what remained (rmtp of nanosleep), 0 for nowhere."""


NO_TIMEOUT: Final = Timeout()

# Pointer or register timeouts that are relative and count on CLOCK_MONOTONIC: name to (form, arg).
_RELATIVE: Final = {
    "poll": (Where.MILLISECONDS, 2),
    "ppoll": (Where.TIMESPEC, 2),
    "select": (Where.TIMEVAL, 4),
    "_newselect": (Where.TIMEVAL, 4),
    "pselect6": (Where.TIMESPEC, 4),
    "epoll_wait": (Where.MILLISECONDS, 3),
    "epoll_pwait": (Where.MILLISECONDS, 3),
    "epoll_pwait2": (Where.TIMESPEC, 3),
    "semtimedop": (Where.TIMESPEC, 3),
    "rt_sigtimedwait": (Where.TIMESPEC, 2),
    "io_getevents": (Where.TIMESPEC, 4),
    "io_pgetevents": (Where.TIMESPEC, 4),
}
# fmt: off
RECEIVING: Final = frozenset({
    "read", "readv", "recvfrom", "recvmsg", "recvmmsg", "recv", "accept", "accept4", "splice",
})
SENDING: Final = frozenset({
    "write", "writev", "sendto", "sendmsg", "sendmmsg", "send", "connect", "sendfile",
    "sendfile64",
})
# fmt: on
# include/uapi/linux/net.h: the calls behind i386 socketcall.
_SOCKETCALLS: Final = {
    3: "connect",
    5: "accept",
    9: "send",
    10: "recv",
    11: "sendto",
    12: "recvfrom",
    16: "sendmsg",
    17: "recvmsg",
    18: "accept4",
    19: "recvmmsg",
    20: "sendmmsg",
}
# include/uapi/linux/ipc.h: the calls behind i386 ipc.
_IPC_CALLS: Final = {1: "semop", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv"}
_IPC_TIMEOUT_ARG: Final = 5
_ALWAYS_64: Final = {"epoll_pwait2", "futex_waitv", "futex_wait"}


def read_args(regs: X86Regs, entry: CallEntry) -> tuple[int, int, int, int, int, int]:
    """Return the six arguments of the call that a thread is in."""
    if entry is CallEntry.INT80:
        six = (regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp)
        return tuple(value & 0xFFFF_FFFF for value in six)  # type: ignore[return-value]
    return (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9)


def resolve_name(name: str, args: tuple[int, ...]) -> str:
    """Return the call behind the i386 multiplexers ``socketcall`` and ``ipc``."""
    if name == "socketcall":
        return _SOCKETCALLS.get(args[0], name)
    if name == "ipc":
        return _IPC_CALLS.get(args[0] & 0xFFFF, name)
    return name


def find_timeout(listed: str, args: tuple[int, ...], entry: CallEntry) -> Timeout:
    """Find the timeout of a call by its name in the syscall table and its arguments."""
    name = resolve_name(listed, args)
    if name != listed:
        return _multiplexed_timeout(name, args)
    if name == "select" and entry is CallEntry.INT80:
        return NO_TIMEOUT  # old_select: one pointer to all arguments; the kernel updates them.
    plain = name.removesuffix("_time64")
    found = _plain_timeout(plain, args)
    if found.where is Where.MILLISECONDS:
        return NO_TIMEOUT if args[found.arg] & 0x8000_0000 else found
    if found.where not in (Where.TIMESPEC, Where.TIMEVAL):
        return found
    if args[found.arg] == 0:
        return NO_TIMEOUT
    if entry is CallEntry.INT80 and plain == name and name not in _ALWAYS_64:
        found = msgspec.structs.replace(found, where=Where(found.where + "32"))
    return found


def _plain_timeout(name: str, args: tuple[int, ...]) -> Timeout:
    if name in _RELATIVE:
        where, arg = _RELATIVE[name]
        return Timeout(where, arg)
    if name in RECEIVING:
        return Timeout(Where.SO_RCVTIMEO, 0)
    if name in SENDING:
        return Timeout(Where.SO_SNDTIMEO, 0)
    special = _SPECIAL.get(name)
    return special(args) if special else NO_TIMEOUT


def _multiplexed_timeout(name: str, args: tuple[int, ...]) -> Timeout:
    if name == "semtimedop":
        known = args[_IPC_TIMEOUT_ARG] != 0
        return Timeout(Where.TIMESPEC32, _IPC_TIMEOUT_ARG) if known else NO_TIMEOUT
    found = _plain_timeout(name, args)
    if found.where in (Where.SO_RCVTIMEO, Where.SO_SNDTIMEO):
        return msgspec.structs.replace(found, indirect=True)
    return NO_TIMEOUT


def _nanosleep(args: tuple[int, ...]) -> Timeout:
    return Timeout(Where.TIMESPEC, 0, remainder=args[1])


def _clock_nanosleep(args: tuple[int, ...]) -> Timeout:
    clock = (args[0] & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000
    if args[1] & TIMER_ABSTIME:
        return Timeout(Where.TIMESPEC, 2, absolute=True, clock=clock)
    # POSIX: setting the clock does not change a relative sleep; hrtimers count it as monotonic.
    clock = CLOCK_MONOTONIC if clock == CLOCK_REALTIME else clock
    return Timeout(Where.TIMESPEC, 2, clock=clock, remainder=args[3])


def _futex(args: tuple[int, ...]) -> Timeout:
    command = args[1] & 0xFFFF_FFFF & ~_FUTEX_FLAGS
    if command not in _FUTEX_TIMED:
        return NO_TIMEOUT
    if command == FUTEX_WAIT:
        return Timeout(Where.TIMESPEC, 3)
    realtime = args[1] & FUTEX_CLOCK_REALTIME or command == FUTEX_LOCK_PI
    clock = CLOCK_REALTIME if realtime else CLOCK_MONOTONIC
    return Timeout(Where.TIMESPEC, 3, absolute=True, clock=clock)


def _absolute(arg: int, clock: int = CLOCK_REALTIME) -> Timeout:
    return Timeout(Where.TIMESPEC, arg, absolute=True, clock=clock)


_SPECIAL: Final[dict[str, Callable[[tuple[int, ...]], Timeout]]] = {
    "nanosleep": _nanosleep,
    "clock_nanosleep": _clock_nanosleep,
    "futex": _futex,
    "futex_waitv": lambda args: _absolute(3, args[4] & 0xFFFF_FFFF),
    "futex_wait": lambda args: _absolute(4, args[5] & 0xFFFF_FFFF),
    "mq_timedsend": lambda _args: _absolute(4),
    "mq_timedreceive": lambda _args: _absolute(4),
}

_FORMS: Final = {
    Where.TIMESPEC: ("<qq", 1),
    Where.TIMEVAL: ("<qq", 1000),
    Where.TIMESPEC32: ("<ii", 1),
    Where.TIMEVAL32: ("<ii", 1000),
}


def encode_time(where: Where, time_ns: int) -> bytes:
    """Encode a time as the structure that ``where`` names, rounded up, never below zero."""
    form, unit_ns = _FORMS[where]
    units = -(-max(time_ns, 0) // unit_ns)
    return struct.pack(form, *divmod(units, 1_000_000_000 // unit_ns))


def decode_time(where: Where, data: bytes) -> int:
    """Return the nanoseconds that a structure read from the target stands for."""
    form, unit_ns = _FORMS[where]
    seconds, units = struct.unpack(form, data[: struct.calcsize(form)])
    return int(seconds) * 1_000_000_000 + int(units) * unit_ns


def encode_milliseconds(time_ns: int) -> int:
    """Return the milliseconds of a timeout in a register, rounded up, within an int."""
    return min(-(-max(time_ns, 0) // 1_000_000), 0x7FFF_FFFF)

"""Planned system calls as strace would write them: names, flags, what pointers lead to.

What a call passes is known before it is made; what it will return is `expected`. Some arguments of
some calls are decided only when a restore runs: these are `Later`, written `<...>`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.arch.x86_64.syscalls import syscall_name
from ckpt.debug.call_flags import SETS as SHARED_SETS
from ckpt.debug.call_table import find_kinds
from ckpt.debug.tape_structs import Contents
from ckpt.objects.steps import Blob, Call, Entry, Expect, Scratch, TimevalLeft

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckpt.objects.steps import Arg


class Later(NamedTuple):
    """An argument that is decided when the restore runs: how, in a few words."""

    how: str


class PlannedCall(NamedTuple):
    """A call that will be made; `Call` with arguments that may be decided later."""

    nr: int
    args: tuple[Arg | Later, ...]
    value: int | None = 0
    """None: the result is decided later, whatever `expect` says of it."""
    expect: Expect = Expect.EXACT
    entry: Entry = Entry.SYSCALL
    when: str = ""
    """What it depends on whether the call is made; empty: it is made."""


def planned(call: Call) -> PlannedCall:
    """Return a call of a tape, all of which is known."""
    return PlannedCall(*call)


_KINDS: Final[dict[str, str]] = {
    "capset": "cap_header cap_data",
    "chdir": "path",
    "chmod": "path mode",
    "chroot": "path",
    "clone3": "clone_args int",
    "clock_nanosleep": ":clock :timer timespec ptr",
    "clock_nanosleep_time64": ":clock :timer timespec ptr",
    "close_range": "uint uint ;close_range",
    "dup3": "fd int ;dup3",
    "epoll_ctl": "fd :epoll_op fd epoll_event",
    "flock": "fd :lock",
    "futex": "ptr futex int timespec ptr hex",
    "futex_time64": "ptr futex int timespec ptr hex",
    "ioctl": "fd ;ioctl int",
    "ioprio_set": ";ioprio_who int hex",
    "mbind": "ptr int ;mempolicy mask int hex",
    "mkdir": "path mode",
    "mlock2": "ptr int ;mlock2",
    "modify_ldt": "int user_desc int",
    "arch_prctl": ";arch_prctl hex",
    "preadv": "fd iovec int int int",
    "prlimit64": "int :rlimit rlimit ptr",
    "recvmsg": "fd msghdr :msg",
    "rmdir": "path",
    "rseq": "ptr int ;rseq hex",
    "rt_sigaction": "sig sigaction ptr int",
    "rt_sigqueueinfo": "int sig siginfo",
    "rt_tgsigqueueinfo": "int int sig siginfo",
    "sched_setaffinity": "int int mask",
    "sched_setattr": "int sched_attr hex",
    "seccomp": ";seccomp ;seccomp_flags fprog",
    "setgroups": "int words",
    "setitimer": ":itimer itimerval ptr",
    "set_mempolicy": ";mempolicy mask int",
    "setns": "fd ;namespace",
    "setresgid": "int int int",
    "setresuid": "int int int",
    "sigaltstack": "stack_t ptr",
    "timer_create": ":clock sigevent timer_id",
    "timer_settime": "int :timer itimerspec ptr",
    "timerfd_settime": "fd ;timerfd itimerspec ptr",
    "umask": "mode",
    "unshare": ";namespace",
}
"""Kinds where `call_table` says too little: it knows addresses only, we know what is passed."""

_PRCTL: Final[dict[int, str]] = {
    1: "sig",
    15: "text",
    28: "hex",
    35: ";set_mm mm_map int int",
    47: ";ambient int int int",
    59: "hex ptr hex ptr",
    77: ";restore_ids int int int",
    0x53564D41: ";set_vma ptr int text",
}
_FCNTL: Final[dict[int, str]] = {
    4: ":open",
    6: "flock",
    7: "flock",
    37: "flock",
    10: "sig",
    15: "owner_ex",
}
_ADDRESSES: Final = frozenset(("mmap", "mremap", "brk"))
_FUTEX_PRIVATE, _FUTEX_REALTIME = 128, 256


class TapeText:
    """Writes planned calls; `locate` names addresses of the target, empty for none."""

    def __init__(self, locate: Callable[[int], str] = lambda _address: "") -> None:
        self._contents = Contents(locate)

    def head(self, call: PlannedCall | Call) -> str:
        """Return `name(arguments)`."""
        name = syscall_name(call.nr, i386=call.entry is Entry.INT80)
        return f"{name}({', '.join(text for _, text in self.arguments(call))})"

    def line(self, tid: int, call: PlannedCall) -> str:
        """Return one line: who, what, what is expected, and what else there is to know."""
        notes = [f"only {call.when}"] if call.when else []
        notes += ["by int 0x80"] if call.entry is Entry.INT80 else []
        note = f"  ({'; '.join(notes)})" if notes else ""
        return f"[tid {tid}] {self.head(call)} = {describe_expected(call)}{note}"

    def made(self, tid: int, call: Call, result: int | None) -> str:
        """Return one line about a call that was made."""
        name = syscall_name(call.nr, i386=call.entry is Entry.INT80)
        shown = "?" if result is None else describe_result(name, result)
        wrong = call.expect is Expect.EXACT and result is not None and result != call.value
        more = f" (expected {describe_result(name, call.value)})" if wrong else ""
        return f"[tid {tid}] {self.head(call)} = {shown}{more}"

    def plain(self, tid: int, call: PlannedCall) -> dict[str, Any]:
        """Return the call as values of JSON's types; bytes in hex."""
        return {
            "tid": tid,
            "nr": call.nr,
            "name": syscall_name(call.nr, i386=call.entry is Entry.INT80),
            "entry": call.entry.name.lower(),
            "args": [{**_plain(arg), "text": text} for arg, text in self.arguments(call)],
            "expect": call.expect.name.lower(),
            "value": call.value if call.expect is Expect.EXACT else None,
            "when": call.when,
            "text": self.line(tid, call),
        }

    def arguments(self, call: PlannedCall | Call) -> Iterator[tuple[Arg | Later, str]]:
        """Yield each argument that was given and that the call has, with its text."""
        name = syscall_name(call.nr, i386=call.entry is Entry.INT80)
        kinds = _kinds_of(name, call.args)
        for kind, arg in zip(kinds, call.args, strict=False):
            yield arg, self._argument(kind, arg, is_short=name == "clock_nanosleep_time32")

    def _argument(self, kind: str, arg: Arg | Later, *, is_short: bool) -> str:
        if isinstance(arg, Later):
            return f"<{arg.how}>"
        if isinstance(arg, Blob | Scratch):
            text = self._contents.describe("timespec32" if is_short else kind, arg)
            return f"{text[:-1]}, and what the clock lags}}" if _is_stretched(arg) else text
        if kind.startswith((":", ";")):
            return self._contents.number(kind, arg)
        if kind in _NUMBERS:
            return _NUMBERS[kind](arg)
        return self._contents.pointer(arg)


def _is_stretched(arg: Blob | Scratch) -> bool:
    return isinstance(arg, TimevalLeft)


def _kinds_of(name: str, args: Sequence[Arg | Later]) -> Sequence[str]:
    """Return the kind of each argument; what is not known is an address or a number."""
    first = args[0] if args and isinstance(args[0], int) else -1
    if name == "prctl":
        return (";prctl", *_PRCTL.get(first, "int int int int").split())
    if name == "ioctl" and len(args) > 2 and isinstance(args[2], Blob):
        return ("fd", ";tick_ioctl", "ticks")
    if name == "fcntl":
        command = args[1] if len(args) > 1 and isinstance(args[1], int) else -1
        return ("fd", ":fcntl", _FCNTL.get(command, "int"))
    if name in _KINDS:
        return _KINDS[name].split()
    return find_kinds(name) or ("ptr",) * len(args)


def _signed(value: int) -> str:
    """Return a number as a C int or long shows it."""
    value &= (1 << 64) - 1
    if value == 0xFFFF_FFFF:
        return "-1"
    return str(value - (1 << 64) if value >> 63 else value)


def _futex(value: int) -> str:
    names = {number: name for name, number in SHARED_SETS["futex"].values.items()}
    command = value & ~(_FUTEX_PRIVATE | _FUTEX_REALTIME)
    parts = [f"FUTEX_{names[command]}" if command in names else hex(command)]
    parts += ["FUTEX_PRIVATE_FLAG"] if value & _FUTEX_PRIVATE else []
    return "|".join([*parts, *(["FUTEX_CLOCK_REALTIME"] if value & _FUTEX_REALTIME else [])])


def _signal(value: int) -> str:
    from ckpt.objects.siginfo import name_of

    return name_of(value)


_NUMBERS: Final[dict[str, Callable[[int], str]]] = {
    "fd": _signed,
    "dirfd": _signed,
    "int": _signed,
    "pid": _signed,
    "uint": lambda value: str(value & 0xFFFF_FFFF),
    "size": _signed,
    "ms": _signed,
    "hex": lambda value: hex(value & (1 << 64) - 1) if value else "0",
    "mode": lambda value: f"{value & 0xFFFF:04o}",
    "sig": _signal,
    "futex": _futex,
}


def describe_expected(call: PlannedCall) -> str:
    """Return what a call must return: `0 expected`."""
    if call.expect is Expect.ANY:
        return "any result"
    if call.expect is Expect.NOT_NEGATIVE:
        return "no error expected"
    if call.value is None:
        return "<known when it runs>"
    name = syscall_name(call.nr, i386=call.entry is Entry.INT80)
    return f"{describe_result(name, call.value)} expected"


def describe_result(name: str, value: int) -> str:
    """Return a raw result as strace does: an address, a number, or an error by name."""
    if -4095 <= value < 0:
        number = -value
        restart = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND"}
        known = errno.errorcode.get(number) or {**restart, 516: "ERESTART_RESTARTBLOCK"}.get(number)
        if known is None or number not in errno.errorcode:
            return f"? {known or number}"
        return f"-1 {known} ({os.strerror(number)})"
    return hex(value) if name in _ADDRESSES else str(value)


def _plain(arg: Arg | Later) -> dict[str, Any]:
    if isinstance(arg, Later):
        return {"later": arg.how}
    if isinstance(arg, Scratch):
        return {"room": arg.size_bytes}
    if isinstance(arg, Blob):
        inner = [{"offset": offset, **_plain(what)} for offset, what in arg.pointers]
        more = {"stretched": True} if _is_stretched(arg) else {}
        return {"bytes": arg.content.hex(), "pointers": inner, **more}
    return {"value": arg}

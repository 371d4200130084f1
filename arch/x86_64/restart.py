"""Classify a stopped thread: what has to be done so that its system call goes on unharmed.

Owns the rules by which Linux restarts a call that a stop has interrupted, for the x86_64 table
and, for calls made by ``int $0x80``, for the i386 one. It is a pure function of what was read; it
does not touch the thread. Which call answers an interruption how was measured on 6.18 and read in
the sources named in ``timeouts.py``; the codes are those of include/linux/errno.h.
"""

from enum import StrEnum
from typing import Final

import msgspec

from ckpt.arch.x86_64.decode import CALL_SIZE, CallEntry, describe_call, find_call
from ckpt.arch.x86_64.regs import X86Regs, signed
from ckpt.arch.x86_64.syscalls import syscall_name
from ckpt.arch.x86_64.timeouts import (
    NO_TIMEOUT,
    RECEIVING,
    SENDING,
    Timeout,
    Where,
    find_timeout,
    read_args,
    resolve_name,
)

EINTR: Final = 4
ERESTARTSYS: Final = 512
ERESTARTNOINTR: Final = 513
ERESTARTNOHAND: Final = 514
ERESTART_RESTARTBLOCK: Final = 516
_NATIVE_CODES: Final = {
    -ERESTARTSYS: "ERESTARTSYS",
    -ERESTARTNOINTR: "ERESTARTNOINTR",
    -ERESTARTNOHAND: "ERESTARTNOHAND",
}
# arch/x86/include/asm/thread_info.h
TS_COMPAT: Final = 0x2
CODE_SIZE: Final = 16
"""How many bytes up to rip a caller reads; fewer are enough when the page before is unreadable."""

# Calls that end with -EINTR on any wake-up, with nothing done: running them again is the same wait.
_REISSUABLE: Final = (
    RECEIVING
    | SENDING
    | {
        "epoll_wait",
        "epoll_pwait",
        "epoll_pwait2",
        "semop",
        "semtimedop",
        "rt_sigtimedwait",
        "io_getevents",
        "io_pgetevents",
        "io_uring_enter",
        # shmem gives back what it had allocated.
        "fallocate",
        # poll_select_finish() cannot write the remaining time into read-only memory.
        "select",
        "_newselect",
        "pselect6",
        "ppoll",
    }
)
# restart_block.fn to the call whose wait it continues.
RESTART_FUNCTIONS: Final = {
    "hrtimer_nanosleep_restart": "nanosleep",
    "alarm_timer_nsleep_restart": "clock_nanosleep",
    "posix_cpu_nsleep_restart": "clock_nanosleep",
    "do_restart_poll": "poll",
    "futex_wait_restart": "futex",
}
NO_RESTART_FUNCTION: Final = "do_no_restart_syscall"


class Kind(StrEnum):
    """What is done with an interrupted call."""

    NATIVE = "native"
    """Keep rax and orig_rax: the kernel restarts the call itself."""
    REARM = "rearm"
    """The kernel needs its restart_block: a live thread has it, a restored one is given it."""
    REISSUE = "reissue"
    """Our stop ended the call with EINTR: run it again, with the deadline that it had."""
    DONE = "done"
    """Leave the registers as they are."""


class Strategy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a thread's interrupted call is continued, and why."""

    kind: Kind
    name: str
    """The call's name; "" for a thread that was not in a call."""
    nr: int
    entry: CallEntry
    reason: str
    timeout: Timeout = NO_TIMEOUT


def classify(
    regs: X86Regs,
    code: bytes,
    *,
    restart_fn: str | None = None,
    handled_signal_pending: bool = False,
    ts_compat: bool | None = None,
) -> Strategy:
    """Decide how the call of a thread in a ptrace stop goes on.

    Args:
        regs: the registers at the stop.
        code: up to CODE_SIZE bytes that end at rip; may be empty when they cannot be read.
        restart_fn: symbol of ``restart_block.fn``, None when it is not known (no BPF).
        handled_signal_pending: a signal with a handler is pending that the thread does not block
            (with the temporary mask of ppoll and its like taken into account).
        ts_compat: thread_info.status has TS_COMPAT; None when it is not known.

    A live thread of kind ``rearm`` needs nothing: it still has its restart_block.
    """
    result = signed(regs.rax)
    nr = _signed32(regs.orig_rax)
    if nr == -1:
        return Strategy(Kind.DONE, "", -1, CallEntry.NONE, "not in a system call")
    entry, doubt = _decide_entry(find_call(code), ts_compat)
    if entry is CallEntry.NONE:
        return Strategy(Kind.DONE, "", nr, entry, f"{doubt}; rax {result} is kept")
    listed = syscall_name(nr, i386=entry is CallEntry.INT80)
    args = read_args(regs, entry)
    name = resolve_name(listed, args)
    timeout = find_timeout(listed, args, entry)
    kind, reason = _decide(name, result, timeout, restart_fn, handled_signal_pending)
    if name == "restart_syscall" and kind is Kind.REARM:
        timeout = _resumed_timeout(restart_fn, args, entry)
    if kind is Kind.DONE:
        timeout = NO_TIMEOUT
    return Strategy(kind, name, nr, entry, "; ".join(filter(None, [reason, doubt])), timeout)


def confirm(strategy: Strategy, regs: X86Regs, code: bytes) -> str:
    """Disassemble the call instruction with capstone; for ``show`` and ``--dry-run``."""
    if strategy.entry is CallEntry.NONE:
        return "no call"
    text = describe_call(code, regs.rip)
    return f"{text} at {regs.rip - CALL_SIZE:#x}" if text else "instruction not readable"


def build_reissue_regs(regs: X86Regs) -> X86Regs:
    """Build the registers that run the call again from its instruction."""
    return msgspec.structs.replace(regs, rax=regs.orig_rax, rip=regs.rip - CALL_SIZE)


def _decide_entry(found: CallEntry, ts_compat: bool | None) -> tuple[CallEntry, str]:
    """Choose the entry; the flag that the kernel itself goes by wins over bytes that may change."""
    if ts_compat is None:
        doubt = "no system call instruction before rip" if found is CallEntry.NONE else ""
        return found, doubt
    flagged = CallEntry.INT80 if ts_compat else CallEntry.SYSCALL
    if found is flagged:
        return found, ""
    seen = "no call instruction" if found is CallEntry.NONE else f"{found.value} instruction"
    return flagged, f"{seen} before rip, the kernel entered by {flagged.value}"


def _decide(
    name: str, result: int, timeout: Timeout, restart_fn: str | None, handled: bool
) -> tuple[Kind, str]:
    if result in _NATIVE_CODES:
        return _decide_native(name, result, timeout, handled)
    if result == -ERESTART_RESTARTBLOCK:
        return _decide_restart_block(restart_fn, handled)
    if result == -EINTR:
        return _decide_eintr(name, handled)
    outcome = f"failed with errno {-result}" if -4096 < result < 0 else f"returned {result:#x}"
    return Kind.DONE, f"the call has {outcome}"


def _decide_native(name: str, result: int, timeout: Timeout, handled: bool) -> tuple[Kind, str]:
    code = _NATIVE_CODES[result]
    if handled:
        return Kind.NATIVE, f"{code}, the kernel decides with the pending handler's flags"
    # do_io_getevents() does not write back what remains, and a restart waits the full time again.
    if name.startswith("io_pgetevents") and timeout.where is not Where.NONE:
        return Kind.REISSUE, f"{code}, but a restart would wait the full timeout again"
    return Kind.NATIVE, f"{code}, the kernel restarts it"


def _decide_restart_block(restart_fn: str | None, handled: bool) -> tuple[Kind, str]:
    if handled:
        return Kind.NATIVE, "a handled signal is pending, the kernel turns the restart into EINTR"
    if restart_fn is None:
        return Kind.REARM, "ERESTART_RESTARTBLOCK, its restart_block was not seen"
    if restart_fn in RESTART_FUNCTIONS:
        return Kind.REARM, f"ERESTART_RESTARTBLOCK, {restart_fn}"
    if restart_fn == NO_RESTART_FUNCTION:
        return Kind.NATIVE, "ERESTART_RESTARTBLOCK with nothing armed, the kernel answers EINTR"
    return Kind.NATIVE, f"{restart_fn} cannot be armed again: EINTR after a restore"


def _decide_eintr(name: str, handled: bool) -> tuple[Kind, str]:
    """Tell the EINTR that our stop caused from one that the program is owed.

    It stays when a handler is about to run, and for calls that may have had an effect.
    """
    if handled:
        return Kind.DONE, "a true EINTR, a handled signal is pending"
    if name.removesuffix("_time64") in _REISSUABLE:
        return Kind.REISSUE, "EINTR by our stop, no handled signal is pending"
    return Kind.DONE, f"EINTR, and {name} is not known to be safe to run again"


def _resumed_timeout(restart_fn: str | None, args: tuple[int, ...], entry: CallEntry) -> Timeout:
    """Find the timeout of the call that restart_syscall continues: its arguments are still there.

    Which of nanosleep's two calls it was cannot be told; restart_block has their deadline.
    """
    name = RESTART_FUNCTIONS.get(restart_fn or "", "")
    return find_timeout(name, args, entry) if name in ("poll", "futex") else NO_TIMEOUT


def _signed32(value: int) -> int:
    value &= 0xFFFF_FFFF
    return value - (1 << 32) if value >> 31 else value

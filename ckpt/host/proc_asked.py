"""The questions that a stopped thread is made to ask about itself, and what the answers mean.

Every call here only reads, and none can sleep. Numbers: `arch/x86/entry/syscalls/syscall_64.tbl`,
`include/uapi/linux/prctl.h`, `arch/x86/include/uapi/asm/prctl.h`, 6.18.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.host.kernel_view import Itimer, SigAction

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.host.remote_call import RemoteCaller

_SYS_BRK: Final = 12
_SYS_RT_SIGACTION: Final = 13
_SYS_GETITIMER: Final = 36
_SYS_SIGALTSTACK: Final = 131
_SYS_MODIFY_LDT: Final = 154
_SYS_PRCTL: Final = 157
_SYS_ARCH_PRCTL: Final = 158
_SYS_TIMER_GETTIME: Final = 224
_SYS_TIMER_GETOVERRUN: Final = 225
_SYS_MEMBARRIER: Final = 324

_PR_GET_PDEATHSIG: Final = 2
_PR_GET_DUMPABLE: Final = 3
_PR_GET_TSC: Final = 25
_PR_GET_SECUREBITS: Final = 27
_PR_GET_CHILD_SUBREAPER: Final = 37
_PR_GET_TID_ADDRESS: Final = 40
_PR_GET_THP_DISABLE: Final = 42
_PR_GET_MDWE: Final = 66
_PR_TIMER_CREATE_RESTORE_IDS: Final = 77
_RESTORE_IDS_GET: Final = 2
_ARCH_GET_CPUID: Final = 0x1011
_PR_TSC_SIGSEGV: Final = 2
_MDWE_REFUSE_EXEC_GAIN, _MDWE_NO_INHERIT = 1, 2

_SIGNALS: Final = 64
_SIGSET_BYTES: Final = 8
_SS_ONSTACK: Final = 1
"""Where the caller runs, not how the stack was set up (`include/uapi/linux/signal.h`)."""
_STACK: Final = struct.Struct("<Qi4xQ")
"""stack_t, 24 bytes: ss_sp, ss_flags, ss_size."""
_SIGACTION: Final = struct.Struct("<QQQQ")
"""struct sigaction of the kernel, x86-64, 32 bytes: handler, flags, restorer, mask."""
_TIMEVALS: Final = struct.Struct("<qqqq")
"""struct __kernel_old_itimerval and struct __kernel_itimerspec, 32 bytes: interval, value."""
_LDT_ENTRY_BYTES: Final = 8
_LDT_ENTRIES: Final = 32
"""How many of the 8192 fit into the scratch place; programs use a handful."""

_CMD_GET_REGISTRATIONS: Final = 1 << 9
# MEMBARRIER_CMD_REGISTER_* (`include/uapi/linux/membarrier.h`) to MEMBARRIER_STATE_* with *_READY
# (`include/linux/sched/mm.h`).
_MEMBARRIER_STATES: Final = {1 << 2: 0x0C, 1 << 4: 0x03, 1 << 6: 0x30, 1 << 8: 0xC0}


class AltStack(NamedTuple):
    """What sigaltstack says."""

    sp: int
    flags: int
    size: int


class ThreadAnswers(NamedTuple):
    """Per thread; None: the kernel would not say."""

    altstack: AltStack | None = None
    pdeath_signal: int | None = None
    clear_child_tid: int | None = None
    securebits: int | None = None
    tsc_faults: bool | None = None
    cpuid_faults: bool | None = None


class TimerAnswer(NamedTuple):
    """One POSIX timer: remaining time (0: disarmed), interval, overrun of the last signal."""

    value_ns: int
    interval_ns: int
    overrun_last: int


class ProcessAnswers(NamedTuple):
    """Once per process; None: the kernel would not say."""

    sigactions: tuple[SigAction, ...] | None
    itimers: tuple[Itimer | None, Itimer | None, Itimer | None]
    timers: dict[int, TimerAnswer]
    is_subreaper: bool | None
    restore_ids: bool | None
    brk: int
    dumpable: int | None
    thp_disabled: bool | None
    mdwe: int | None
    ldt: bytes | None
    membarrier_state: int | None

    @property
    def has_mdwe(self) -> bool | None:
        """PR_MDWE_REFUSE_EXEC_GAIN."""
        return None if self.mdwe is None else bool(self.mdwe & _MDWE_REFUSE_EXEC_GAIN)

    @property
    def has_mdwe_no_inherit(self) -> bool | None:
        """PR_MDWE_NO_INHERIT."""
        return None if self.mdwe is None else bool(self.mdwe & _MDWE_NO_INHERIT)


def ask_thread(caller: RemoteCaller) -> ThreadAnswers:
    """Ask what each thread has of its own."""
    tsc = _ask_int(caller, _PR_GET_TSC)
    cpuid = _plain(caller.call(_SYS_ARCH_PRCTL, _ARCH_GET_CPUID))
    return ThreadAnswers(
        altstack=_ask_altstack(caller),
        pdeath_signal=_ask_int(caller, _PR_GET_PDEATHSIG),
        clear_child_tid=_ask_int(caller, _PR_GET_TID_ADDRESS, size=8),
        securebits=_plain(caller.call(_SYS_PRCTL, _PR_GET_SECUREBITS)),
        tsc_faults=None if tsc is None else tsc == _PR_TSC_SIGSEGV,
        cpuid_faults=None if cpuid is None else cpuid == 0,
    )


def ask_process(caller: RemoteCaller, timer_ids: Iterable[int]) -> ProcessAnswers:
    """Ask what all threads share."""
    subreaper = _ask_int(caller, _PR_GET_CHILD_SUBREAPER)
    restore_ids = _plain(caller.call(_SYS_PRCTL, _PR_TIMER_CREATE_RESTORE_IDS, _RESTORE_IDS_GET))
    thp = _plain(caller.call(_SYS_PRCTL, _PR_GET_THP_DISABLE))
    registrations = _plain(caller.call(_SYS_MEMBARRIER, _CMD_GET_REGISTRATIONS))
    return ProcessAnswers(
        sigactions=_ask_sigactions(caller),
        itimers=(_ask_itimer(caller, 0), _ask_itimer(caller, 1), _ask_itimer(caller, 2)),
        timers={timer_id: _ask_timer(caller, timer_id) for timer_id in timer_ids},
        is_subreaper=None if subreaper is None else bool(subreaper),
        restore_ids=None if restore_ids is None else bool(restore_ids),
        brk=caller.call(_SYS_BRK, 0),
        dumpable=_plain(caller.call(_SYS_PRCTL, _PR_GET_DUMPABLE)),
        thp_disabled=None if thp is None else thp == 1,
        mdwe=_plain(caller.call(_SYS_PRCTL, _PR_GET_MDWE)),
        ldt=_ask_ldt(caller),
        membarrier_state=None if registrations is None else membarrier_state(registrations),
    )


def membarrier_state(registrations: int) -> int:
    """Turn what MEMBARRIER_CMD_GET_REGISTRATIONS says into mm->membarrier_state."""
    return sum(state for command, state in _MEMBARRIER_STATES.items() if registrations & command)


def _plain(result: int) -> int | None:
    return None if result < 0 else result


def _ask_int(caller: RemoteCaller, option: int, size: int = 4) -> int | None:
    """Ask a prctl that stores its answer; the place is cleared by nobody, so trust its size."""
    if caller.call(_SYS_PRCTL, option, caller.scratch) < 0:
        return None
    return int.from_bytes(caller.read_scratch(size), "little")


def _ask_altstack(caller: RemoteCaller) -> AltStack | None:
    if caller.call(_SYS_SIGALTSTACK, 0, caller.scratch) < 0:
        return None
    sp, flags, size = _STACK.unpack(caller.read_scratch(_STACK.size))
    return AltStack(sp, flags & 0xFFFF_FFFF & ~_SS_ONSTACK, size)


def _ask_sigactions(caller: RemoteCaller) -> tuple[SigAction, ...] | None:
    found = []
    for signo in range(1, _SIGNALS + 1):
        if caller.call(_SYS_RT_SIGACTION, signo, 0, caller.scratch, _SIGSET_BYTES) < 0:
            return None
        found.append(SigAction(*_SIGACTION.unpack(caller.read_scratch(_SIGACTION.size))))
    return tuple(found)


def _ask_itimer(caller: RemoteCaller, which: int) -> Itimer | None:
    if caller.call(_SYS_GETITIMER, which, caller.scratch) < 0:
        return None
    interval_s, interval_us, value_s, value_us = _TIMEVALS.unpack(
        caller.read_scratch(_TIMEVALS.size)
    )
    return Itimer(
        (value_s * 1_000_000 + value_us) * 1000, (interval_s * 1_000_000 + interval_us) * 1000
    )


def _ask_timer(caller: RemoteCaller, timer_id: int) -> TimerAnswer:
    if caller.call(_SYS_TIMER_GETTIME, timer_id, caller.scratch) < 0:
        return TimerAnswer(0, 0, 0)
    interval_s, interval_ns, value_s, value_ns = _TIMEVALS.unpack(
        caller.read_scratch(_TIMEVALS.size)
    )
    return TimerAnswer(
        value_s * 1_000_000_000 + value_ns,
        interval_s * 1_000_000_000 + interval_ns,
        max(caller.call(_SYS_TIMER_GETOVERRUN, timer_id), 0),
    )


def _ask_ldt(caller: RemoteCaller) -> bytes | None:
    """Read the LDT; None when it has more entries than the scratch place can take."""
    room = _LDT_ENTRIES * _LDT_ENTRY_BYTES
    got = caller.call(_SYS_MODIFY_LDT, 0, caller.scratch, room)
    if got <= 0:
        return b"" if got == 0 else None
    # The kernel fills up with zeros what is behind the last entry, and does not say where.
    content = caller.read_scratch(room)
    if any(content[-_LDT_ENTRY_BYTES:]):
        return None
    return content[: -(-len(content.rstrip(b"\0")) // _LDT_ENTRY_BYTES) * _LDT_ENTRY_BYTES]

"""The questions that a stopped thread is made to ask about itself, and what the answers mean.

Every call here only reads, and none can sleep. Numbers: `arch/x86/entry/syscalls/syscall_64.tbl`,
`include/uapi/linux/prctl.h`, `arch/x86/include/uapi/asm/prctl.h`, 6.18.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.host.kernel_view import Itimer, SigAction
from ckpt.host.remote_call import RemoteCallError

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
_LDT_SIZES: Final = (1 << 9, 1 << 12, 1 << 16)
"""Programs use a handful of entries; there can be 8192."""

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
    asked_ns: int
    """CLOCK_MONOTONIC when that was the remaining time."""


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


def ask_process(caller: RemoteCaller, timer_ids: Iterable[int], as_of_ns: int) -> ProcessAnswers:
    """Ask what all threads share; ITIMER_REAL is given as it was at `as_of_ns`."""
    subreaper = _ask_int(caller, _PR_GET_CHILD_SUBREAPER)
    restore_ids = _plain(caller.call(_SYS_PRCTL, _PR_TIMER_CREATE_RESTORE_IDS, _RESTORE_IDS_GET))
    thp = _plain(caller.call(_SYS_PRCTL, _PR_GET_THP_DISABLE))
    registrations = _plain(caller.call(_SYS_MEMBARRIER, _CMD_GET_REGISTRATIONS))
    return ProcessAnswers(
        sigactions=_ask_sigactions(caller),
        itimers=(
            _ask_itimer(caller, 0, as_of_ns),
            _ask_itimer(caller, 1),
            _ask_itimer(caller, 2),
        ),
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


def _ask_itimer(caller: RemoteCaller, which: int, as_of_ns: int = 0) -> Itimer | None:
    """Ask for one; the time since `as_of_ns` is given back to a clock that goes on meanwhile."""
    passed_ns = time.monotonic_ns() - as_of_ns if as_of_ns else 0
    if caller.call(_SYS_GETITIMER, which, caller.scratch) < 0:
        return None
    answer = _TIMEVALS.unpack(caller.read_scratch(_TIMEVALS.size))
    interval_ns, value_ns = (
        (seconds * 1_000_000 + micros) * 1000 for seconds, micros in (answer[:2], answer[2:])
    )
    return Itimer(value_ns + passed_ns if value_ns else 0, interval_ns)


def _ask_timer(caller: RemoteCaller, timer_id: int) -> TimerAnswer:
    asked_ns = time.monotonic_ns()
    if caller.call(_SYS_TIMER_GETTIME, timer_id, caller.scratch) < 0:
        return TimerAnswer(0, 0, 0, asked_ns)
    answer = _TIMEVALS.unpack(caller.read_scratch(_TIMEVALS.size))
    interval_ns, value_ns = (
        seconds * 1_000_000_000 + nanos for seconds, nanos in (answer[:2], answer[2:])
    )
    overrun = max(caller.call(_SYS_TIMER_GETOVERRUN, timer_id), 0)
    return TimerAnswer(value_ns, interval_ns, overrun, asked_ns)


def _ask_ldt(caller: RemoteCaller) -> bytes | None:
    """Read the LDT; None when the target has no memory to take a large one."""
    if not caller.call(_SYS_MODIFY_LDT, 0, caller.scratch, _LDT_ENTRY_BYTES):
        return b""
    for size in _LDT_SIZES:
        try:
            place = caller.borrow(size)
        except RemoteCallError:
            return None
        if caller.call(_SYS_MODIFY_LDT, 0, place, size) < 0:
            return None
        # The kernel fills up with zeros what is behind the last entry, and does not say where.
        content = caller.read(place, size)
        if size == _LDT_SIZES[-1] or not any(content[-_LDT_ENTRY_BYTES:]):
            break
    return content[: -(-len(content.rstrip(b"\0")) // _LDT_ENTRY_BYTES) * _LDT_ENTRY_BYTES]

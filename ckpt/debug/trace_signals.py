"""Signals in a trace: which, from whom, and what the process does with them.

The kernel notes a sender only in siginfo, and there only for some; `ckpt-bpf trace` sees the task
that runs while the signal is made. That task is the sender only if the signal came from a system
call: while a timer fires, or a key is pressed, whoever happens to run is no sender.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.call_flags import name_sa_flags
from ckpt.debug.text import escape_bytes
from ckpt.debug.trace_events import Altstack, Sender, Signal
from ckpt.host import bpf_trace_records as records
from ckpt.objects.siginfo import name_of

if TYPE_CHECKING:
    from ckpt.debug.trace_places import Places

# include/uapi/asm-generic/siginfo.h
_SI_USER, _SI_KERNEL, _SI_QUEUE, _SI_TIMER, _SI_MESGQ = 0, 0x80, -1, -2, -3
_SI_TKILL: Final = -6
_CODES: Final = {
    _SI_USER: "SI_USER", _SI_KERNEL: "SI_KERNEL", _SI_QUEUE: "SI_QUEUE", _SI_TIMER: "SI_TIMER",
    _SI_MESGQ: "SI_MESGQ", -4: "SI_ASYNCIO", -5: "SI_SIGIO", _SI_TKILL: "SI_TKILL",
}  # fmt: skip
_SPECIAL: Final = {
    signal.SIGSEGV: ("SEGV_", "MAPERR ACCERR BNDERR PKUERR ACCADI ADIDERR ADIPERR MTEAERR MTESERR "
                     "CPERR"),
    signal.SIGBUS: ("BUS_", "ADRALN ADRERR OBJERR MCEERR_AR MCEERR_AO"),
    signal.SIGFPE: ("FPE_", "INTDIV INTOVF FLTDIV FLTOVF FLTUND FLTRES FLTINV FLTSUB"),
    signal.SIGILL: ("ILL_", "ILLOPC ILLOPN ILLADR ILLTRP PRVOPC PRVREG COPROC BADSTK"),
    signal.SIGTRAP: ("TRAP_", "BRKPT TRACE BRANCH HWBKPT UNK PERF"),
    signal.SIGCHLD: ("CLD_", "EXITED KILLED DUMPED TRAPPED STOPPED CONTINUED"),
    signal.SIGPOLL: ("POLL_", "IN OUT MSG ERR PRI HUP"),
    signal.SIGSYS: ("SYS_", "SECCOMP USER_DISPATCH"),
}  # fmt: skip
"""Codes from 1 on; include/uapi/asm-generic/siginfo.h, 6.18."""
_FAULTS: Final = frozenset(
    (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS)
)
_BY_CALL: Final = frozenset((_SI_USER, _SI_QUEUE, _SI_MESGQ, _SI_TKILL))
"""The task that ran when these were made is the one that made them."""
_FROM_TIMER: Final = frozenset((signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF))
_FROM_TERMINAL: Final = frozenset(
    (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH, signal.SIGHUP,
     signal.SIGTTIN, signal.SIGTTOU)
)  # fmt: skip
_SIG_IGN: Final = 1


def name_code(signo: int, code: int) -> str:
    """Return si_code by name."""
    prefix, names = _SPECIAL.get(signo, ("", ""))  # type: ignore[call-overload]
    listed = names.split()
    if 0 < code <= len(listed):
        return f"{prefix}{listed[code - 1]}"
    return _CODES.get(code, str(code))


def decode_signal(head: dict[str, Any], body: bytes, places: Places) -> Signal:
    """Return the event of a struct trace_signal behind its head."""
    (
        signo, code, handler, sa_flags, fault, _, _, info_pid, bits, sent_ns, tid, tgid, comm,
    ) = records.SIGNAL.unpack_from(body)  # fmt: skip
    is_seen = bool(bits & records.SENDER_SEEN)
    sender = None
    if is_seen and code in _BY_CALL:
        sender = Sender(tid, tgid, escape_bytes(comm.split(b"\0", 1)[0]))
    return Signal(
        **head,
        signal=name_of(signo),
        code=name_code(signo, code),
        source=_source(signo, code, info_pid, fault, sender),
        sender=sender,
        to_process=bool(bits & records.TO_PROCESS),
        action=_action(head["tgid"], handler, places),
        flags=name_sa_flags(sa_flags) if handler > _SIG_IGN else "",
        waited_ns=head["time_ns"] - sent_ns if is_seen else None,
        is_fatal=bool(bits & records.FATAL),
    )


def decode_altstack(head: dict[str, Any], body: bytes, places: Places) -> Altstack:
    """Return the event of a handler that starts on the alternate stack."""
    signo, _, handler, _, _, stack, size, _, bits, *_ = records.SIGNAL.unpack_from(body)
    return Altstack(
        **head,
        signal=name_of(signo),
        action=_action(head["tgid"], handler, places),
        stack=stack,
        stack_bytes=size,
        was_on_it=bool(bits & records.ON_ALTSTACK),
    )


def _action(tgid: int, handler: int, places: Places) -> str:
    if handler <= _SIG_IGN:
        return "ignored" if handler == _SIG_IGN else "default"
    place = places.locate(tgid, handler)
    return f"{handler:#x} ({place})" if place else f"{handler:#x}"


def _source(signo: int, code: int, info_pid: int, fault: int, sender: Sender | None) -> str:
    """Return who or what made a signal, in words; empty when nothing is known."""
    if sender is not None:
        inside = f" of {sender.tgid}" if sender.tgid != sender.tid else ""
        return f"{sender.tid}{inside} ({sender.comm})"
    if code == _SI_TIMER:
        return "a POSIX timer"
    if code == _SI_KERNEL and signo in _FROM_TIMER:
        return "the timer of setitimer or alarm"
    if code == _SI_KERNEL and signo in _FROM_TERMINAL:
        return "the terminal"
    if signo == signal.SIGCHLD and code > 0:
        return f"the end or stop of child {info_pid}" if info_pid else "a child"
    if signo in _FAULTS and code > 0:
        return f"a fault at {fault:#x}"
    if code in _BY_CALL:
        return f"process {info_pid}" if info_pid else ""
    return "the kernel"

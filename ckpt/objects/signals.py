"""Signals: masks, and pending signals of threads and processes.

The mask is what PTRACE_GETSIGMASK says: in sigsuspend, ppoll and their like that is the saved mask,
not the temporary one (kernel/ptrace.c, `test_tsk_restore_sigmask`). Setting it by ptrace clears the
restore flag, which is right: the interrupted call is entered again and saves the mask anew.

Pending signals are queued by the threads themselves, since only the receiver may queue siginfo with
si_code >= 0, with every signal blocked: a blocked signal is queued even when its disposition is to
ignore it, and is dropped at delivery as it would have been before. A POSIX timer's signal is not
queued here: `timers` arms the timer in the past, and the kernel queues the true one.

A tape ends in a trap, which disturbs faults and SIGTRAP: `ckpt.objects.last_calls` says how. Those
are queued behind the thread's last tape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ckpt.errors import PlanError
from ckpt.host import ptrace
from ckpt.host.syscalls import syscall
from ckpt.objects import siginfo
from ckpt.objects.base import ProcessRecord, Record
from ckpt.objects.last_calls import LastCalls, last_dispositions_set
from ckpt.objects.steps import (
    Blob,
    Call,
    Token,
    born,
    dispositions_set,
    last_signals_queued,
    restart_armed,
    signals_queued,
    thread_done,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.host.kernel_view import ThreadView
    from ckpt.objects.base import Builder, Process, Records, Restorer

SYS_RT_SIGQUEUEINFO: Final = 129
SYS_TGKILL: Final = 234
SYS_RT_TGSIGQUEUEINFO: Final = 297

_NEVER_SET: Final = frozenset((siginfo.SIGKILL, siginfo.SIGSTOP))
_NOT_QUEUED: Final = siginfo.mask_of([siginfo.SIGKILL])


class ThreadSignals(Record, frozen=True, kw_only=True, tag="thread_signals"):
    """Mask and pending signals of one thread."""

    tid: int
    mask: int
    """Bit n-1 is signal n."""
    pending: list[bytes]
    """siginfo of 128 bytes each, by signal, those of one signal in the order they were queued."""


class ProcessSignals(Record, frozen=True, kw_only=True, tag="process_signals"):
    """Signals pending for a process as a whole."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset(("alarms",))

    tgid: int
    pending: list[bytes]
    alarms: list[bytes]
    """Those that timers of setitimer sent; another one may come at any moment."""


RECORDS = (ThreadSignals, ProcessSignals)


class Raw(NamedTuple):
    """What the frozen time read."""

    masks: dict[int, int]
    pending: dict[int, list[bytes]]
    """Queues of the threads that have something in them."""
    shared: list[bytes]


def capture(process: Process) -> Raw:
    """Read masks and queues of every stopped thread.

    A thousand threads are not asked one by one for what the BPF view of the same moment shows.
    """
    views = process.thread_views
    return Raw(
        {tid: _read_mask(tid, views.get(tid)) for tid in process.tids},
        {
            tid: ptrace.peek_siginfo(tid, shared=False)
            for tid in process.tids
            if tid not in views or views[tid].pending
        },
        ptrace.peek_siginfo(process.living_tid, shared=True),
    )


def _read_mask(tid: int, view: ThreadView | None) -> int:
    """Return what PTRACE_GETSIGMASK does, with or without asking (kernel/ptrace.c, 6.18)."""
    if view is None or view.restore_sigmask is None or view.saved_sigmask is None:
        return ptrace.get_sigmask(tid)
    return view.saved_sigmask if view.restore_sigmask else view.blocked


def finish(raw: Raw, process: Process) -> Iterable[Record]:
    """Make the records of masks and queues."""
    for tid, mask in raw.masks.items():
        view = process.thread_views.get(tid)
        pending = _queue(raw.pending.get(tid, []), view.pending if view else 0)
        yield ThreadSignals(tid=tid, mask=mask, pending=pending)
    process_view = process.process_view
    queued = _queue(raw.shared, process_view.shared_pending if process_view else 0)
    alarms = [info for info in queued if siginfo.is_alarm(info)]
    pending = [info for info in queued if not siginfo.is_alarm(info)]
    yield ProcessSignals(tgid=process.tgid, pending=pending, alarms=alarms)


def _queue(infos: list[bytes], pending: int) -> list[bytes]:
    """Return the signals to queue, without those of timers.

    A pending signal that is not queued (there was no room) is added as it would be reported. Order
    is kept within each signal: between signals the kernel does not look at it, lowest comes first.
    """
    if not infos and not pending:
        return infos
    bare = pending & ~siginfo.mask_of([siginfo.signo_of(info) for info in infos]) & ~_NOT_QUEUED
    kept = [info for info in infos if siginfo.timer_id_of(info) is None]
    kept += [siginfo.bare_siginfo(signo) for signo in siginfo.signals_in(bare)]
    return sorted(kept, key=siginfo.signo_of)


def plan(records: Records, build: Builder) -> None:
    """Queue pending signals, load masks last of all."""
    threads = {record.tid: record for record in records.of(ThreadSignals)}
    shared = {record.tgid: record for record in records.of(ProcessSignals)}
    for process in records.processes:
        own = shared.get(process.tgid, ProcessSignals(tgid=process.tgid, pending=[], alarms=[]))
        last = _plan_shared(process, own, build)
        for tid in process.tids:
            if tid not in threads:
                raise PlanError("no signal mask", where=f"tid {tid}")
            last += _plan_thread(process, threads[tid], build)
            if last:
                _plan_last(process, tid, last, build)
                last = []
            _plan_mask(process, threads[tid], own, build)


def _plan_shared(process: ProcessRecord, record: ProcessSignals, build: Builder) -> list[Call]:
    """Queue for the process, by a thread that names itself: kill's pid may be any thread's.

    Returns the calls that must come last.
    """
    tid, tgid = process.tids[0], process.tgid
    taped, last = _split(
        (signo, Call(SYS_RT_SIGQUEUEINFO, (tid, signo, Blob(info))))
        for signo, info in _to_queue(record.pending + record.alarms)
    )
    if taped:
        build.tape(
            tid,
            taped,
            f"queue {len(taped)} signals pending for the process",
            needs=(born(tid),),
            after=(dispositions_set(tgid), *map(restart_armed, process.tids)),
            provides=(signals_queued(tid), signals_queued(tgid)),
        )
    return last


def _plan_thread(process: ProcessRecord, record: ThreadSignals, build: Builder) -> list[Call]:
    """Queue for one thread; returns the calls that must come last."""
    if not record.pending:
        return []
    tid, tgid = record.tid, process.tgid
    taped, last = _split(
        (signo, Call(SYS_RT_TGSIGQUEUEINFO, (tgid, tid, signo, Blob(info))))
        for signo, info in _to_queue(record.pending)
    )
    if taped:
        build.tape(
            tid,
            taped,
            f"queue {len(taped)} signals pending for the thread",
            needs=(born(tid),),
            after=(dispositions_set(tgid), restart_armed(tid)),
            provides=(signals_queued(tid),),
        )
    return last


def _split(calls: Iterable[tuple[int, Call]]) -> tuple[list[Call], list[Call]]:
    """Split calls about signals into those for a tape, and those behind the last tape."""
    taped: list[Call] = []
    last: list[Call] = []
    for signo, call in calls:
        (last if signo in siginfo.SYNCHRONOUS else taped).append(call)
    return taped, last


def _plan_last(process: ProcessRecord, tid: int, calls: list[Call], build: Builder) -> None:
    """Make calls when no tape plays any more, and every signal of the thread's is armed."""
    build.ptrace(
        tid,
        LastCalls(tid, calls),
        "signals that a trap would disturb",
        needs=(born(tid),),
        after=(
            last_dispositions_set(process.tgid),
            *map(thread_done, process.tids),
            *map(restart_armed, process.tids),
        ),
        provides=(last_signals_queued(tid),),
    )


def _plan_mask(
    process: ProcessRecord, record: ThreadSignals, shared: ProcessSignals, build: Builder
) -> None:
    tid = record.tid
    stops = _has_stop(record) or (tid == process.tids[0] and _has_stop(shared))
    build.ptrace(
        tid,
        LoadMask(tid, record.mask, process.tgid if stops else 0),
        "signal mask, last of all",
        needs=(born(tid),),
        after=(thread_done(tid), parked(tid)),
        provides=(mask_loaded(tid),),
    )


def parked(tid: int) -> Token:
    """The thread stands in its final trap with its own registers (provided by `task`)."""
    return Token("parked", tid)


def mask_loaded(tid: int) -> Token:
    """The thread's own signal mask is loaded: from here on signals reach it when it runs."""
    return Token("mask", tid)


def _to_queue(pending: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (signo, siginfo) to queue. SIGSTOP cannot be blocked: `LoadMask` sends it instead."""
    for info in pending:
        signo = siginfo.signo_of(info)
        if signo not in _NEVER_SET:
            yield signo, info


def _has_stop(record: ThreadSignals | ProcessSignals) -> bool:
    return any(siginfo.signo_of(info) == siginfo.SIGSTOP for info in record.pending)


class LoadMask:
    """Give a stopped thread its signal mask, and the SIGSTOP that was about to reach it."""

    def __init__(self, tid: int, mask: int, stop_tgid: int = 0) -> None:
        self.tid = tid
        self.mask = mask
        self.stop_tgid = stop_tgid
        """The process that a SIGSTOP was pending for, 0 when none was."""

    def perform(self, restorer: Restorer) -> None:  # noqa: ARG002
        """Load it; the thread does not run before it is let go."""
        ptrace.set_sigmask(self.tid, self.mask)
        if self.stop_tgid:
            syscall(SYS_TGKILL, self.stop_tgid, self.tid, siginfo.SIGSTOP)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        sent = ", then send SIGSTOP" if self.stop_tgid else ""
        return f"tid {self.tid}: block {siginfo.names_in(self.mask)}{sent}"

"""Interval timers: ITIMER_REAL, ITIMER_VIRTUAL and ITIMER_PROF of setitimer(2).

An ITIMER_REAL whose SIGALRM is pending does not run; delivery starts it again if it has an interval
(`posixtimer_rearm_itimer`, kernel/time/itimer.c, 6.18). Such a timer is armed to expire at once,
after the pending signals: SIGALRM is there already, and the timer is left in just that state.

VIRTUAL and PROF count the CPU time of a process that starts anew, so they get the time that
remained; the kernel adds up to one tick to it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.objects.base import Plain, Record
from ckpt.objects.steps import (
    Blob,
    Call,
    TimevalLeft,
    born,
    dispositions_set,
    memory_filled,
    signals_queued,
    threads_exist,
    timens_entered,
    timers_armed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.host.kernel_view import Itimer
    from ckpt.objects.base import Builder, Process, ProcessRecord, Records

SYS_SETITIMER: Final = 38

ITIMER_REAL: Final = 0
ITIMER_VIRTUAL: Final = 1
ITIMER_PROF: Final = 2

ITIMERVAL: Final = struct.Struct("<qqqq")
"""struct itimerval: interval, value; each seconds and microseconds (include/uapi/linux/time.h)."""
_VALUE_OFFSET: Final = 16

_SECOND_US: Final = 1_000_000


class IntervalTimer(Plain, frozen=True):
    """What getitimer would say."""

    interval_ns: int
    value_ns: int
    """Remaining time; 0 with an interval: expired, its signal not yet delivered."""


class Itimers(Record, frozen=True, kw_only=True, tag="itimers"):
    """The three interval timers of a process."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset(("timers",))

    tgid: int
    timers: list[IntervalTimer]
    """Three, by ITIMER_* number."""


RECORDS = (Itimers,)


def finish(raw: object, process: Process) -> Iterable[Itimers]:  # noqa: ARG001
    """Make the record."""
    view = process.process_view
    if view is None or view.itimer_real is None:
        process.warn(
            f"process {process.tgid}",
            "interval timers (setitimer) cannot be seen: they come back disarmed",
        )
        return
    timers = (view.itimer_real, view.itimer_virtual, view.itimer_prof)
    yield Itimers(tgid=process.tgid, timers=[_interval_timer(timer) for timer in timers])


def _interval_timer(timer: Itimer | None) -> IntervalTimer:
    if timer is None:
        return IntervalTimer(0, 0)
    return IntervalTimer(timer.interval_ns, max(timer.value_ns, 0))


def plan(records: Records, build: Builder) -> None:
    """Arm late, and the expired one after all pending signals."""
    processes = {process.tgid: process for process in records.processes}
    for record in records.of(Itimers):
        running = [
            _set_itimer(which, itimer)
            for which, itimer in enumerate(record.timers)
            if itimer.value_ns
        ]
        if running:
            _plan_running(processes[record.tgid], running, build)
        real = record.timers[ITIMER_REAL]
        if real.interval_ns and not real.value_ns:
            _plan_expired(processes[record.tgid], _set_itimer(ITIMER_REAL, real), build)


def _plan_running(process: ProcessRecord, calls: list[Call], build: Builder) -> None:
    tid, tgid = process.tids[0], process.tgid
    build.tape(
        tid,
        calls,
        f"start {len(calls)} interval timers with the time that remained",
        needs=(born(tid),),
        after=(
            threads_exist(tgid),
            memory_filled(tgid),
            timens_entered(tgid),
            dispositions_set(tgid),
        ),
        provides=(timers_armed(tgid),),
    )


def _plan_expired(process: ProcessRecord, call: Call, build: Builder) -> None:
    tid, tgid = process.tids[0], process.tgid
    queued = {tgid, *process.tids}
    build.tape(
        tid,
        (call,),
        "let ITIMER_REAL expire whose SIGALRM is pending",
        needs=(born(tid),),
        after=(timens_entered(tgid), dispositions_set(tgid), *map(signals_queued, queued)),
    )


def _set_itimer(which: int, itimer: IntervalTimer) -> Call:
    """Return a setitimer; its microseconds are rounded up, and 0 would disarm."""
    interval_us = -(-itimer.interval_ns // 1000)
    value_us = max(-(-itimer.value_ns // 1000), 1)
    content = ITIMERVAL.pack(*divmod(interval_us, _SECOND_US), *divmod(value_us, _SECOND_US))
    counts_on = which == ITIMER_REAL and itimer.value_ns > 0
    spec = TimevalLeft(content, _VALUE_OFFSET) if counts_on else Blob(content)
    return Call(SYS_SETITIMER, (which, spec, 0))

"""POSIX timers (timer_create): ids, remaining time, overrun, queued signals.

Time that remained at the snapshot remains at the restore. Two kinds are armed by absolute time:
- A timer set with TIMER_ABSTIME on the wall clock: its deadline is a date, and stays that date.
- A timer whose signal is queued. It is armed at the expiry it had, minus the periods that had been
  counted since: the kernel queues the signal at once and counts the overrun again, the pause
  excluded (that is what the time namespace is for). `signals` therefore leaves that signal out.
  This comes after other pending signals: a standard signal that is already pending swallows a
  second one of a sender, but not of a timer (`posixtimer_send_sigqueue`, kernel/signal.c, 6.18).

CPU clocks start anew in a restored process, so these timers get their remaining time. What cannot
come back: timer_getoverrun of a signal that was already delivered, and the overrun counted for a
queued signal of a CPU clock.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ckpt.host import ptrace
from ckpt.objects import siginfo
from ckpt.objects.base import Record
from ckpt.objects.steps import (
    Blob,
    Call,
    born,
    dispositions_set,
    memory_filled,
    signals_queued,
    threads_exist,
    timens_entered,
    timers_armed,
)
from ckpt.objects.timer_ids import MAX_TRIED_IDS, can_choose_ids, plan_creation, timers_made

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.host.kernel_view import PosixTimer
    from ckpt.objects.base import Builder, Process, ProcessRecord, Records

SYS_TIMER_SETTIME: Final = 223

TIMER_ABSTIME: Final = 1
SIGEV_NONE: Final = 1
SIGEV_THREAD_ID: Final = 4
CLOCK_REALTIME: Final = 0
CLOCK_MONOTONIC: Final = 1
CLOCK_BOOTTIME: Final = 7
CLOCK_REALTIME_ALARM: Final = 8
CLOCK_BOOTTIME_ALARM: Final = 9
CLOCK_TAI: Final = 11
CAP_WAKE_ALARM: Final = 35

ITIMERSPEC: Final = struct.Struct("<qqqq")
"""struct __kernel_itimerspec: interval, value; each seconds and nanoseconds.
(include/uapi/linux/time_types.h, 6.18)."""

_SECOND_NS: Final = 1_000_000_000
_WALL_CLOCKS: Final = frozenset((CLOCK_REALTIME, CLOCK_REALTIME_ALARM, CLOCK_TAI))
_DATES_BEGIN_NS: Final = 500_000_000 * _SECOND_NS
"""A CLOCK_REALTIME timer that was set relatively expires in CLOCK_MONOTONIC (`common_hrtimer_arm`).
Sixteen years: no machine is up that long, no clock that has ever been set shows so little."""


class PosixTimerRecord(Record, frozen=True, kw_only=True, tag="posix_timer"):
    """One POSIX timer."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset(("value_ns", "is_pending", "counted"))

    tgid: int
    timer_id: int
    clockid: int
    notify: int
    """SIGEV_*."""
    signo: int
    sigval: int
    notify_tid: int
    """The thread that SIGEV_THREAD_ID names; 0 without it."""
    is_armed: bool
    """It runs, or its signal is queued."""
    is_pending: bool
    """Its signal is queued and not yet delivered."""
    value_ns: int
    """Remaining time; with a queued signal minus the time since it expired."""
    date_ns: int | None
    """When it expires by the wall clock, for a timer that was set to a date."""
    interval_ns: int
    counted: int
    """Periods that it was already moved on by since its signal was queued."""


class TimerIds(Record, frozen=True, kw_only=True, tag="timer_ids"):
    """Where the POSIX timer ids of a process go on."""

    tgid: int
    next_id: int


RECORDS = (PosixTimerRecord, TimerIds)


class Raw(NamedTuple):
    """What the frozen time read."""

    listing: bytes
    """/proc/PID/timers."""
    pending_ids: frozenset[int]
    """Timers whose signals are queued."""


def capture(process: Process) -> Raw:
    """List the POSIX timers, and look whose signals are queued."""
    listing = _read_listing(process.tgid)
    if not listing:
        return Raw(b"", frozenset())
    infos = ptrace.peek_siginfo(process.living_tid, shared=True)
    for tid in _notified_tids(listing) & set(process.tids):
        infos += ptrace.peek_siginfo(tid, shared=False)
    ids = {siginfo.timer_id_of(info) for info in infos}
    return Raw(listing, frozenset(number for number in ids if number is not None))


def _read_listing(tgid: int) -> bytes:
    """Read /proc/PID/timers; a kernel without it (or without POSIX timers) has nothing to list."""
    try:
        with open(f"/proc/{tgid}/timers", "rb") as listing:
            return listing.read()
    except FileNotFoundError:
        return b""


def _notified_tids(listing: bytes) -> set[int]:
    """Return the threads that lines such as `notify: signal/tid.412` name (fs/proc/base.c)."""
    return {
        int(line.rpartition(b".")[2])
        for line in listing.splitlines()
        if line.startswith(b"notify:") and b"/tid." in line
    }


def finish(raw: Raw, process: Process) -> Iterable[Record]:
    """Make a record of each timer."""
    view = process.process_view
    where = f"process {process.tgid}"
    if view is None or view.posix_timers is None:
        if raw.listing:
            process.refuse(where, "has POSIX timers, whose times cannot be seen", "use BPF")
        return
    if view.next_posix_timer_id:
        yield TimerIds(tgid=process.tgid, next_id=view.next_posix_timer_id)
    clocks = _read_clocks(process)
    for timer in view.posix_timers:
        record = _posix_timer(process.tgid, timer, timer.timer_id in raw.pending_ids, clocks)
        _warn(process, timer, record)
        yield record


def _warn(process: Process, view: PosixTimer, record: PosixTimerRecord) -> None:
    """Say what will differ."""
    where = f"process {process.tgid} timer {view.timer_id}"
    if view.overrun_last:
        what = f"timer_getoverrun will give 0, not {view.overrun_last}, until it expires again"
        process.warn(where, what)
    if record.is_pending and record.interval_ns and process.options.no_bpf:
        process.warn(where, "its signal is pending; the overrun so far cannot be seen without BPF")


def _read_clocks(process: Process) -> dict[int, int]:
    """Return the host's clocks at the moment when the threads were looked at."""
    monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    view = process.thread_views.get(process.living_tid)
    seen = view.observed_ns if view else monotonic
    seen_boot = view.boottime_ns if view else None
    if seen_boot is None:
        seen_boot = boottime - monotonic + seen
    return {
        CLOCK_MONOTONIC: seen,
        CLOCK_REALTIME: seen,
        CLOCK_BOOTTIME: seen_boot,
        CLOCK_BOOTTIME_ALARM: seen_boot,
    }


def _posix_timer(
    tgid: int, view: PosixTimer, has_signal: bool, clocks: dict[int, int]
) -> PosixTimerRecord:
    """Make one record.

    An interval without a running timer means that the signal is queued, or would be but for being
    ignored; then the kernel keeps the timer aside until it is not (`ignored_posix_timers`).
    """
    waits = view.value_ns is None and view.interval_ns > 0 and view.notify != SIGEV_NONE
    is_pending = has_signal or bool(view.signal_queued) or waits
    expires_ns = view.expires_ns
    date_ns = None
    if view.clockid in _WALL_CLOCKS and expires_ns is not None and expires_ns > _DATES_BEGIN_NS:
        date_ns = expires_ns
    value_ns = view.value_ns or 0
    if is_pending and expires_ns is not None and date_ns is None and view.clockid in clocks:
        value_ns = min(expires_ns - clocks[view.clockid], 0)
    return PosixTimerRecord(
        tgid=tgid,
        timer_id=view.timer_id,
        clockid=view.clockid,
        notify=view.notify,
        signo=view.signo,
        sigval=view.sigval & (1 << 64) - 1,
        notify_tid=view.notify_tid if view.notify & SIGEV_THREAD_ID else 0,
        is_armed=view.value_ns is not None or is_pending,
        is_pending=is_pending,
        value_ns=value_ns,
        date_ns=date_ns,
        interval_ns=view.interval_ns,
        counted=max(view.overrun + 1, 0) if is_pending else 0,
    )


def plan(records: Records, build: Builder) -> None:
    """Create timers with their ids, arm those that run, then those whose signals are queued."""
    timers: dict[int, list[PosixTimerRecord]] = {}
    for record in records.of(PosixTimerRecord):
        timers.setdefault(record.tgid, []).append(record)
    next_ids = {record.tgid: record.next_id for record in records.of(TimerIds)}
    for process in records.processes:
        own = timers.get(process.tgid, [])
        if _check(process, own, build):
            plan_creation(process, own, next_ids.get(process.tgid), build)
            _plan_arming(process, own, build)


def _check(process: ProcessRecord, timers: Sequence[PosixTimerRecord], build: Builder) -> bool:
    """Refuse what this machine cannot hold."""
    alarm = [t for t in timers if t.clockid in (CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME_ALARM)]
    if alarm and not build.host.has_capability(CAP_WAKE_ALARM):
        build.refuse(
            f"process {process.tgid} timer {alarm[0].timer_id}",
            "a timer that wakes the machine needs CAP_WAKE_ALARM",
            "restore as root",
        )
        return False
    highest = max((timer.timer_id for timer in timers), default=0)
    if highest > MAX_TRIED_IDS and not can_choose_ids(build):
        build.refuse(
            f"process {process.tgid} timer {highest}",
            "this kernel cannot give a timer so high an id",
            "restore on Linux 6.15 or later",
        )
        return False
    return True


def _plan_arming(
    process: ProcessRecord,
    timers: Sequence[PosixTimerRecord],
    build: Builder,
) -> None:
    """Arm late: running timers after the memory, expired ones after all pending signals."""
    tid, tgid = process.tids[0], process.tgid
    running = [_arm(t, build) for t in timers if t.is_armed and not t.is_pending]
    expired = [_arm(t, build) for t in timers if t.is_pending]
    after = (
        timers_made(tgid),
        threads_exist(tgid),
        memory_filled(tgid),
        timens_entered(tgid),
        dispositions_set(tgid),
    )
    if running:
        why = f"start {len(running)} timers with the time that remained"
        build.tape(
            tid, running, why, needs=(born(tid),), after=after, provides=(timers_armed(tgid),)
        )
    if expired:
        why = f"let {len(expired)} timers expire whose signals are pending"
        queued = {tgid, *process.tids}
        build.tape(
            tid,
            expired,
            why,
            needs=(born(tid),),
            after=(*after, timers_armed(tgid), *map(signals_queued, queued)),
        )


def _arm(timer: PosixTimerRecord, build: Builder) -> Call:
    """Return the timer_settime of one armed timer."""
    passed_ns = timer.counted * timer.interval_ns
    if timer.date_ns is not None:
        return _settime(timer, TIMER_ABSTIME, timer.date_ns - passed_ns)
    if not timer.is_pending:
        return _settime(timer, 0, timer.value_ns)
    now_ns = _target_clock_ns(timer.clockid, build)
    return _settime(timer, TIMER_ABSTIME, now_ns + timer.value_ns - passed_ns if now_ns else 0)


def _target_clock_ns(clockid: int, build: Builder) -> int:
    """Return what the target's clock shows when it is restored; 0 for clocks that start anew."""
    host, continues = build.host, build.options.timens
    if clockid == CLOCK_MONOTONIC:
        return host.snapshot_monotonic_ns if continues else host.monotonic_ns
    if clockid in (CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM):
        return host.snapshot_boottime_ns if continues else host.boottime_ns
    return host.realtime_ns if clockid == CLOCK_REALTIME else 0


def _settime(timer: PosixTimerRecord, flags: int, value_ns: int) -> Call:
    """Return a timer_settime; a value of 0 would disarm, so 1 ns is the least."""
    interval = divmod(timer.interval_ns, _SECOND_NS)
    spec = Blob(ITIMERSPEC.pack(*interval, *divmod(max(value_ns, 1), _SECOND_NS)))
    return Call(SYS_TIMER_SETTIME, (timer.timer_id, flags, spec, 0))

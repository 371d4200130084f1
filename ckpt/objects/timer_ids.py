"""Creating POSIX timers so that each has its id again, and the next one gets the next id.

Since Linux 6.15 timer_create takes the id that it is told, while a prctl is on. Before, ids are
counted up, and those in between are used up by timers that are deleted at once. A timer on `the
calling thread's` CPU clock is made by that thread; the threads take turns, one step after another.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ckpt.objects.steps import Blob, Call, Token, born, threads_exist, timens_entered

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.objects.base import Builder, ProcessRecord
    from ckpt.objects.timers import PosixTimerRecord

SYS_PRCTL: Final = 157
SYS_TIMER_CREATE: Final = 222
SYS_TIMER_DELETE: Final = 226

PR_TIMER_CREATE_RESTORE_IDS: Final = 77
"""include/uapi/linux/prctl.h, 6.15: 0 off, 1 on, 2 get. While it is on, timer_create takes the id
that it finds where it will store one."""

CLOCK_MONOTONIC: Final = 1
CLOCK_THREAD_CPUTIME_ID: Final = 3
INT_MAX: Final = (1 << 31) - 1

SIGEVENT: Final = struct.Struct("<Qiii44x")
"""struct sigevent, 64 bytes: sigev_value, sigev_signo, sigev_notify, thread id."""
_TIMER_ID: Final = struct.Struct("<i4x")

MAX_TRIED_IDS: Final = 100_000
CAN_CHOOSE_IDS: Final = "timer_restore_ids"
"""The probe that tells whether timer_create takes an id (`HostFacts.features`)."""


def timers_made(tgid: int) -> Token:
    """POSIX timers exist, with their ids; none runs yet. Needs privileges for *_ALARM clocks."""
    return Token("timers_made", tgid)


def can_choose_ids(build: Builder) -> bool:
    """Tell whether timer_create takes an id here."""
    return build.host.features.get(CAN_CHOOSE_IDS, True)


def plan_creation(
    process: ProcessRecord,
    timers: Sequence[PosixTimerRecord],
    next_id: int | None,
    build: Builder,
) -> None:
    """Create timers, those of a thread's own CPU clock by that thread, one thread after another."""
    chooses = can_choose_ids(build)
    runs: list[tuple[int, list[Call]]] = []
    counter = 0
    for timer in _in_order(timers, next_id if chooses else None):
        tid = _creator(process, timer, build)
        if not runs or runs[-1][0] != tid:
            runs.append((tid, []))
        if not chooses:
            runs[-1][1].extend(_skip_ids(counter, timer.timer_id))
        runs[-1][1].append(_create(timer))
        counter = timer.timer_id + 1
    if next_id is not None and next_id != counter:
        runs.append((process.tids[0], _move_counter(counter, next_id, chooses)))
    _add_runs(process, timers, [(tid, calls) for tid, calls in runs if calls], chooses, build)


def _in_order(timers: Sequence[PosixTimerRecord], next_id: int | None) -> list[PosixTimerRecord]:
    """Sort by id; the kernel goes on behind the last one made, so that one comes last."""
    return sorted(timers, key=lambda t: (t.timer_id + 1 == next_id, t.timer_id))


def _creator(process: ProcessRecord, timer: PosixTimerRecord, build: Builder) -> int:
    """Return the thread that creates a timer: the clock of `the calling thread` is its own."""
    is_own_clock = timer.clockid == CLOCK_THREAD_CPUTIME_ID or (
        timer.clockid >> 3 == -1 and timer.clockid & 4
    )
    if not is_own_clock or len(process.tids) == 1:
        return process.tids[0]
    if timer.notify_tid in process.tids:
        return timer.notify_tid
    build.warn(
        f"process {process.tgid} timer {timer.timer_id}",
        "runs on a thread's CPU clock; which thread's is not known, the first is taken",
    )
    return process.tids[0]


def _create(timer: PosixTimerRecord) -> Call:
    event = Blob(SIGEVENT.pack(timer.sigval, timer.signo, timer.notify, timer.notify_tid))
    clockid = timer.clockid & 0xFFFF_FFFF
    return Call(SYS_TIMER_CREATE, (clockid, event, Blob(_TIMER_ID.pack(timer.timer_id))))


def _skip_ids(first: int, end: int) -> Iterator[Call]:
    """Use up ids of a kernel that counts them: create and delete."""
    for number in range(first, end):
        yield Call(SYS_TIMER_CREATE, (CLOCK_MONOTONIC, 0, Blob(_TIMER_ID.pack(0))))
        yield Call(SYS_TIMER_DELETE, (number,))


def _move_counter(counter: int, next_id: int, chooses: bool) -> list[Call]:
    """Let the kernel go on with `next_id`: make and delete the timer before it."""
    if not chooses:
        return list(_skip_ids(counter, min(next_id, MAX_TRIED_IDS)))
    before = (next_id - 1) & INT_MAX
    return [
        Call(SYS_TIMER_CREATE, (CLOCK_MONOTONIC, 0, Blob(_TIMER_ID.pack(before)))),
        Call(SYS_TIMER_DELETE, (before,)),
    ]


def _add_runs(
    process: ProcessRecord,
    timers: Sequence[PosixTimerRecord],
    runs: Sequence[tuple[int, list[Call]]],
    chooses: bool,
    build: Builder,
) -> None:
    """Add the steps of creation; each waits for the one before, whoever makes it."""
    named = tuple(born(timer.notify_tid) for timer in timers if timer.notify_tid)
    waits: tuple[Token, ...] = ()
    for index, (tid, calls) in enumerate(runs):
        made = Token(f"timers_made_{index}", process.tgid)
        if chooses:
            switch = [Call(SYS_PRCTL, (PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0)) for on in (1, 0)]
            calls = [switch[0], *calls, switch[1]]
        build.tape(
            tid,
            calls,
            f"create POSIX timers with their ids ({len(timers)} in all)",
            needs=(born(tid), *named, *waits),
            after=(threads_exist(process.tgid), timens_entered(process.tgid)),
            provides=(made, timers_made(process.tgid)),
        )
        waits = (made,)

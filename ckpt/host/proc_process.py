"""What the threads of a process share, from /proc and from the answers of one stopped thread."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.host.facts import RLIM_INFINITY, RLIM_NLIMITS
from ckpt.host.kernel_view import NO_OBJECT, MmView, PosixTimer, ProcessView, Rlimit
from ckpt.host.proc_tasks import read_optional
from ckpt.host.proc_waits import clock_offset_ns
from ckpt.host.status import read_small

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckpt.host.kernel_view import KernelId
    from ckpt.host.proc_asked import ProcessAnswers, TimerAnswer
    from ckpt.host.proc_tasks import Task

_AT_SYSINFO_EHDR: Final = 33
_AT_NULL: Final = 0
_KIB_A_PAGE: Final = 4
_LIMIT_COLUMN: Final = 26
"""`%-25s ` of proc_pid_limits, fs/proc/base.c; the lines stand in the order of RLIMIT_*."""

# /proc/PID/timers, fs/proc/base.c (show_timer); SIGEV_* of include/uapi/asm-generic/siginfo.h
_NOTIFY: Final = {b"signal": 0, b"none": 1, b"thread": 2}
_SIGEV_THREAD_ID: Final = 4
_CPU_CLOCKS: Final = {-6: 2, -2: 3}
"""How the kernel stores CLOCK_PROCESS_CPUTIME_ID and CLOCK_THREAD_CPUTIME_ID in a timer."""
_REALTIME: Final = 0
_DATE_TOLERANCE_NS: Final = 20_000_000
"""Between our look at the clock and the thread's at its timer. Dates and monotonic times are years
apart, so nothing else can be so near."""


class ProcessText(NamedTuple):
    """What was read of one process."""

    limits: bytes
    oom_score_adj: bytes
    coredump_filter: bytes
    auxv: bytes
    statm: bytes
    timers: bytes
    exe: tuple[int, int]
    """st_dev and st_ino; zeros: there is none."""


def read_process(tgid: int, tid: int) -> ProcessText:
    """Read the files of a process through a living thread."""
    folder = f"/proc/{tgid}/task/{tid}/"
    try:
        exe = os.stat(folder + "exe")
        identity = (exe.st_dev, exe.st_ino)
    except OSError:
        identity = (0, 0)
    return ProcessText(
        read_small(folder + "limits"),
        read_small(folder + "oom_score_adj"),
        read_optional(f"/proc/{tid}/coredump_filter"),
        read_optional(folder + "auxv"),
        read_optional(folder + "statm"),
        read_optional(f"/proc/{tgid}/timers"),
        identity,
    )


def parse_limits(text: bytes) -> tuple[Rlimit, ...]:
    """Parse /proc/PID/limits."""
    rows = [line[_LIMIT_COLUMN:].split() for line in text.splitlines()[1 : RLIM_NLIMITS + 1]]
    return tuple(Rlimit(_limit(row[0]), _limit(row[1])) for row in rows)


def _limit(word: bytes) -> int:
    return RLIM_INFINITY if word == b"unlimited" else int(word)


class ListedTimer(NamedTuple):
    """One POSIX timer as /proc/PID/timers has it."""

    timer_id: int
    signo: int
    sigval: int
    notify: int
    notify_tid: int
    clockid: int


def parse_timers(text: bytes) -> list[ListedTimer]:
    """Parse /proc/PID/timers: four lines a timer."""
    found = []
    lines = [line.split(b": ", 1)[1] for line in text.splitlines() if b": " in line]
    for number, sent, notify, clock in zip(*[iter(lines)] * 4, strict=True):
        signo, _, sigval = sent.partition(b"/")
        how, _, whom = notify.partition(b"/")
        kind, _, target = whom.partition(b".")
        by_thread = _SIGEV_THREAD_ID if kind == b"tid" else 0
        found.append(
            ListedTimer(
                int(number),
                int(signo),
                int(sigval, 16),
                _NOTIFY[how] | by_thread,
                int(target),
                _CPU_CLOCKS.get(int(clock), int(clock)),
            )
        )
    return found


def build_timer(
    listed: ListedTimer,
    answer: TimerAnswer,
    *,
    is_queued: bool,
    as_of_ns: int,
    dates: Sequence[int] = (),
) -> PosixTimer:
    """Build the view of one timer.

    `as_of_ns` is what CLOCK_MONOTONIC showed when the threads had stopped: remaining times are of
    that moment. A wall clock timer that was set to a date is one of `dates`, the wall clock times
    at which timers expire; a duration on that clock the kernel keeps in CLOCK_MONOTONIC.
    """
    expires_ns = None
    value_ns = answer.value_ns
    if listed.clockid >= 0 and listed.clockid not in _CPU_CLOCKS.values():
        value_ns += answer.asked_ns - as_of_ns if value_ns else 0
        shift = 0 if listed.clockid == _REALTIME else clock_offset_ns(listed.clockid)
        if is_queued and answer.interval_ns:
            # timer_gettime told when it expires next; its signal is from the time before.
            expires_ns = as_of_ns + shift + value_ns - answer.interval_ns
        elif value_ns:
            expires_ns = find_date(listed, answer, dates) or as_of_ns + shift + value_ns
    return PosixTimer(
        timer_id=listed.timer_id,
        clockid=listed.clockid,
        notify=listed.notify,
        signo=listed.signo,
        sigval=listed.sigval,
        notify_tid=listed.notify_tid,
        expires_ns=expires_ns,
        value_ns=value_ns or None,
        interval_ns=answer.interval_ns,
        overrun=-1,
        overrun_last=answer.overrun_last,
        signal_queued=is_queued,
    )


def find_date(listed: ListedTimer, answer: TimerAnswer, dates: Sequence[int]) -> int:
    """Return the date that a timer was set to; 0: it was set to a duration."""
    if listed.clockid != _REALTIME or not dates:
        return 0
    estimate_ns = answer.asked_ns + answer.value_ns + clock_offset_ns(_REALTIME)
    nearest = min(dates, key=lambda date: abs(date - estimate_ns))
    return nearest if abs(nearest - estimate_ns) < _DATE_TOLERANCE_NS else 0


def build_process(
    tgid: int,
    task: Task,
    text: ProcessText,
    answers: ProcessAnswers | None,
    timers: tuple[PosixTimer, ...] | None,
    identify: Callable[[object], KernelId],
) -> ProcessView:
    """Build the view of a signal_struct; `task` is a living thread of it."""
    stat = task.stat
    real, virtual, prof = answers.itimers if answers else (None, None, None)
    return ProcessView(
        tgid=tgid,
        leader_tid=tgid,
        nr_threads=stat.threads,
        live=None,
        sighand_count=None,
        signal_refs=None,
        rlimits=parse_limits(text.limits),
        sigactions=answers.sigactions if answers else None,
        shared_pending=task.number(b"ShdPnd", 16),
        posix_timers=timers,
        timer_create_restore_ids=answers.restore_ids if answers else None,
        next_posix_timer_id=None,
        itimer_real=real,
        itimer_virtual=virtual,
        itimer_prof=prof,
        is_child_subreaper=answers.is_subreaper if answers else None,
        has_child_subreaper=None,
        signal_flags=None,
        group_stop_count=None,
        group_exit_code=None,
        pgrp=stat.pgrp,
        session=stat.session,
        is_session_leader=stat.session == tgid,
        tty=identify(("tty", stat.tty)) if stat.tty else NO_OBJECT,
        tty_index=None,
        tty_dev=stat.tty,
        oom_score_adj=int(text.oom_score_adj),
        oom_score_adj_min=None,
    )


def cut_auxv(auxv: bytes) -> bytes:
    """Keep the pairs up to and with AT_NULL."""
    for at in range(0, len(auxv), 16):
        if int.from_bytes(auxv[at : at + 8], "little") == _AT_NULL:
            return auxv[: at + 16]
    return auxv


def _auxv_value(auxv: bytes, wanted: int) -> int:
    for at in range(0, len(auxv) - 15, 16):
        if int.from_bytes(auxv[at : at + 8], "little") == wanted:
            return int.from_bytes(auxv[at + 8 : at + 16], "little")
    return 0


def build_mm(
    task: Task,
    text: ProcessText,
    answers: ProcessAnswers,
    identify: Callable[[object], KernelId],
    *,
    aio_contexts: int | None,
    vdso: int | None,
    map_count: int | None,
) -> MmView:
    """Build the view of the mm_struct; brk and others are known only by a call."""
    stat = task.stat
    return MmView(
        mm=identify("mm"),
        mm_users=None,
        mm_count=None,
        start_code=stat.start_code,
        end_code=stat.end_code,
        start_data=stat.start_data,
        end_data=stat.end_data,
        start_brk=stat.start_brk,
        brk=answers.brk,
        start_stack=stat.start_stack,
        arg_start=stat.arg_start,
        arg_end=stat.arg_end,
        env_start=stat.env_start,
        env_end=stat.env_end,
        flags=None,
        dumpable=answers.dumpable,
        coredump_filter=int(text.coredump_filter or b"0", 16),
        has_mdwe=answers.has_mdwe,
        has_mdwe_no_inherit=answers.has_mdwe_no_inherit,
        thp_disabled=answers.thp_disabled,
        def_flags=None,
        map_count=map_count,
        total_vm=int(text.statm.split()[0]) if text.statm else None,
        locked_vm=task.number(b"VmLck") // _KIB_A_PAGE,
        saved_auxv=cut_auxv(text.auxv),
        ldt=answers.ldt,
        aio_contexts=aio_contexts,
        membarrier_state=answers.membarrier_state,
        pkey_allocation_map=None,
        vdso=_auxv_value(text.auxv, _AT_SYSINFO_EHDR) if vdso is None else vdso,
        exe=identify(("inode", *text.exe)) if any(text.exe) else NO_OBJECT,
        exe_dev=text.exe[0],
        exe_ino=text.exe[1],
        has_notify_users=None,
    )

"""Decoding of what the threads of a process share: signal_struct, its timers, and the mm."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from ckpt.host.kernel_view import (
    Itimer,
    KernelId,
    MmView,
    PosixTimer,
    ProcessView,
    Rlimit,
    SigAction,
)

if TYPE_CHECKING:
    from ckpt.host import bpf_records as records
    from ckpt.host.bpf_decode_thread import Surroundings

RLIMIT_COUNT: Final = 16
"""RLIM_NLIMITS, include/uapi/asm-generic/resource.h."""

_RLIMIT: Final = struct.Struct("<QQ")
"""struct rlimit: rlim_cur, rlim_max."""
_SIGACTION: Final = struct.Struct("<QQQQ")
"""struct k_sigaction of x86-64: sa_handler, sa_flags, sa_restorer, sa_mask."""

_IS_CHILD_SUBREAPER: Final = 0x1
_HAS_CHILD_SUBREAPER: Final = 0x2
_RESTORE_TIMER_IDS: Final = 0x4
_HRTIMER_ENQUEUED: Final = 0x1
_LEAST_REMAINING_NS: Final = 1000
"""What getitimer shows of a timer that is just expiring (itimer_get_remtime)."""

# mm->flags, include/linux/mm_types.h (6.18)
_MMF_DUMPABLE_MASK: Final = 0x3
_MMF_DUMP_FILTER_SHIFT: Final = 2
_MMF_DUMP_FILTER_MASK: Final = 0x1FF
_MMF_DISABLE_THP: Final = 1 << 24
_MMF_HAS_MDWE: Final = 1 << 28
_MMF_HAS_MDWE_NO_INHERIT: Final = 1 << 29

# Clock ids, include/uapi/linux/time.h; CPU clocks, include/linux/posix-timers_types.h
_CLOCK_REALTIME: Final = 0
_CLOCK_BOOTTIME: Final = 7
_CLOCK_REALTIME_ALARM: Final = 8
_CLOCK_BOOTTIME_ALARM: Final = 9
_CLOCK_TAI: Final = 11
_CPUCLOCK_PERTHREAD: Final = 0x4
_PROCESS_CLOCK: Final = -6
_THREAD_CLOCK: Final = -2
_NAMED_CPU_CLOCKS: Final = {_PROCESS_CLOCK: 2, _THREAD_CLOCK: 3}
"""How the kernel stores CLOCK_PROCESS_CPUTIME_ID and CLOCK_THREAD_CPUTIME_ID in a timer."""
# k_itimer.it_status, include/linux/posix-timers.h
_SIGEV_NONE: Final = 1
_DATES_BEGIN_NS: Final = 500_000_000_000_000_000
"""A relative CLOCK_REALTIME timer runs by CLOCK_MONOTONIC (common_hrtimer_arm); sixteen years tell
what is an uptime and what a date."""
_ARMED: Final = 1
_REQUEUE_PENDING: Final = 2


def decode_rlimits(data: bytes) -> tuple[Rlimit, ...]:
    """Decode signal->rlim."""
    return tuple(Rlimit(soft, hard) for soft, hard in _RLIMIT.iter_unpack(data))


def decode_sigactions(data: bytes) -> tuple[SigAction, ...]:
    """Decode sighand->action."""
    return tuple(SigAction(*fields) for fields in _SIGACTION.iter_unpack(data))


def decode_process(
    record: records.TasksProcess,
    leader: records.TasksCore,
    rlimits: tuple[Rlimit, ...],
    sigactions: tuple[SigAction, ...] | None,
    posix_timers: tuple[PosixTimer, ...] | None,
    identify: Callable[[int], KernelId],
    tick_ns: int,
) -> ProcessView:
    """Decode a signal_struct."""
    has_tty = bool(record.tty)
    return ProcessView(
        tgid=leader.tgid,
        leader_tid=record.leader_tid,
        nr_threads=record.nr_threads,
        live=record.live,
        sighand_count=record.sighand_count,
        signal_refs=record.signal_refs,
        rlimits=rlimits,
        sigactions=sigactions,
        shared_pending=record.shared_pending,
        posix_timers=posix_timers,
        timer_create_restore_ids=bool(record.bits & _RESTORE_TIMER_IDS),
        next_posix_timer_id=record.next_posix_timer_id,
        itimer_real=_itimer_real(record, leader.observed_ns),
        itimer_virtual=_itimer_cpu(
            record.virt_expires_ns, record.virt_incr_ns, record.group_utime_ns, tick_ns
        ),
        itimer_prof=_itimer_cpu(
            record.prof_expires_ns,
            record.prof_incr_ns,
            record.group_utime_ns + record.group_stime_ns,
            tick_ns,
        ),
        is_child_subreaper=bool(record.bits & _IS_CHILD_SUBREAPER),
        has_child_subreaper=bool(record.bits & _HAS_CHILD_SUBREAPER),
        signal_flags=record.flags,
        group_stop_count=record.group_stop_count,
        group_exit_code=record.group_exit_code,
        pgrp=record.pgrp,
        session=record.session,
        is_session_leader=bool(record.is_session_leader),
        tty=identify(record.tty),
        tty_index=record.tty_index if has_tty else None,
        tty_dev=_encode_dev(record.tty_major, record.tty_minor_start + record.tty_index)
        if has_tty
        else 0,
        oom_score_adj=record.oom_score_adj,
        oom_score_adj_min=record.oom_score_adj_min,
    )


def _encode_dev(major: int, minor: int) -> int:
    """Encode a device number for user space: new_encode_dev, include/linux/kdev_t.h."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


@cache
def decode_kernel_dev(dev: int) -> int:
    """Turn a dev_t of the kernel (12 bits major, 20 bits minor) into user space's encoding."""
    return _encode_dev(dev >> 20, dev & 0xFFFFF)


def _itimer_real(record: records.TasksProcess, now_ns: int) -> Itimer:
    value_ns = 0
    if record.real_state & _HRTIMER_ENQUEUED:
        value_ns = max(record.real_expires_ns - now_ns, _LEAST_REMAINING_NS)
    return Itimer(value_ns, record.real_incr_ns)


def _itimer_cpu(expires_ns: int, interval_ns: int, clock_ns: int, tick_ns: int) -> Itimer:
    """Decode an itimer of a CPU clock, as get_cpu_itimer does."""
    if not expires_ns:
        return Itimer(0, interval_ns)
    return Itimer(tick_ns if expires_ns < clock_ns else expires_ns - clock_ns, interval_ns)


def decode_posix_timer(
    record: records.TimersRecord,
    process: records.TasksProcess,
    threads: Mapping[int, records.TasksCore],
    around: Surroundings,
) -> PosixTimer:
    """Decode a k_itimer; remaining time as timer_gettime shows it."""
    clockid = record.clockid
    expires_ns = _timer_expiry(record)
    clock_ns = _clock_now(record, process, threads, around)
    value_ns = None
    if expires_ns is not None and clock_ns is not None:
        next_ns = expires_ns
        if expires_ns <= clock_ns and record.interval_ns:
            missed = (clock_ns - expires_ns) // record.interval_ns + 1
            next_ns += missed * record.interval_ns
        value_ns = max(next_ns - clock_ns, 1)
        if record.notify == _SIGEV_NONE and next_ns <= clock_ns:
            expires_ns = value_ns = None
    return PosixTimer(
        timer_id=record.id,
        clockid=_NAMED_CPU_CLOCKS.get(clockid, clockid),
        notify=record.notify,
        signo=record.signo,
        sigval=record.sigval,
        notify_tid=record.notify_tid,
        expires_ns=expires_ns,
        value_ns=value_ns,
        interval_ns=record.interval_ns,
        overrun=record.overrun,
        overrun_last=record.overrun_last,
        signal_queued=bool(record.signal_queued) or record.status == _REQUEUE_PENDING,
    )


def _timer_expiry(record: records.TimersRecord) -> int | None:
    """Return the last programmed expiry of an armed timer; None for a disarmed one.

    A timer that notifies nobody is never queued, nor marked as armed (common_timer_set).
    """
    waits = record.status == _ARMED or (record.status == _REQUEUE_PENDING and record.interval_ns)
    if not waits and record.notify != _SIGEV_NONE:
        return None
    if record.clockid in {_CLOCK_REALTIME_ALARM, _CLOCK_BOOTTIME_ALARM}:
        return record.alarm_expires_ns
    return record.cpu_expires_ns if _is_cpu_clock(record.clockid) else record.real_expires_ns


def _is_cpu_clock(clockid: int) -> bool:
    return clockid < 0 or clockid in {2, 3}


def _clock_now(
    record: records.TimersRecord,
    process: records.TasksProcess,
    threads: Mapping[int, records.TasksCore],
    around: Surroundings,
) -> int | None:
    """Return what the timer's clock showed; None for a thread's clock that is not at hand."""
    clockid = record.clockid
    if not _is_cpu_clock(clockid):
        leader = threads[process.leader_tid]
        if clockid in {_CLOCK_BOOTTIME, _CLOCK_BOOTTIME_ALARM}:
            return leader.boottime_ns
        if clockid == _CLOCK_REALTIME and record.real_expires_ns < _DATES_BEGIN_NS:
            return leader.observed_ns
        if clockid in {_CLOCK_REALTIME, _CLOCK_REALTIME_ALARM}:
            return around.realtime_ns
        return around.tai_ns if clockid == _CLOCK_TAI else leader.observed_ns
    times = (process.group_utime_ns, process.group_stime_ns, process.group_runtime_ns)
    if clockid < 0 and clockid & _CPUCLOCK_PERTHREAD:
        thread = threads.get(~(clockid >> 3)) or threads.get(record.notify_tid)
        if thread is None:
            return None
        times = (thread.utime_ns, thread.stime_ns, thread.runtime_ns)
    prof, virt, sched = times[0] + times[1], times[0], times[2]
    return (prof, virt, sched, None)[clockid & 3]


def decode_mm(
    record: records.TasksMm,
    *,
    auxv: bytes,
    aio: tuple[int, bytes],
    ldt: tuple[int, bytes],
    identify: Callable[[int], KernelId],
) -> MmView:
    """Decode an mm_struct; ``aio`` and ``ldt`` are (bytes used, bytes read)."""
    flags = record.flags
    return MmView(
        mm=identify(record.mm),
        mm_users=record.mm_users,
        mm_count=record.mm_count,
        start_code=record.start_code,
        end_code=record.end_code,
        start_data=record.start_data,
        end_data=record.end_data,
        start_brk=record.start_brk,
        brk=record.brk,
        start_stack=record.start_stack,
        arg_start=record.arg_start,
        arg_end=record.arg_end,
        env_start=record.env_start,
        env_end=record.env_end,
        flags=flags,
        dumpable=flags & _MMF_DUMPABLE_MASK,
        coredump_filter=flags >> _MMF_DUMP_FILTER_SHIFT & _MMF_DUMP_FILTER_MASK,
        has_mdwe=bool(flags & _MMF_HAS_MDWE),
        has_mdwe_no_inherit=bool(flags & _MMF_HAS_MDWE_NO_INHERIT),
        thp_disabled=bool(flags & _MMF_DISABLE_THP),
        def_flags=record.def_flags,
        map_count=record.map_count,
        total_vm=record.total_vm,
        locked_vm=record.locked_vm,
        saved_auxv=_cut_auxv(auxv),
        ldt=ldt[1][: ldt[0]],
        aio_contexts=_count_pointers(aio[1][: aio[0]]),
        membarrier_state=record.membarrier_state,
        pkey_allocation_map=record.pkey_map,
        vdso=record.vdso,
        exe=identify(record.exe),
        exe_dev=decode_kernel_dev(record.exe_dev),
        exe_ino=record.exe_ino,
        has_notify_users=bool(record.notifier),
    )


def _cut_auxv(auxv: bytes) -> bytes:
    """Keep the pairs up to and with AT_NULL."""
    for offset in range(0, len(auxv), 16):
        if not any(auxv[offset : offset + 8]):
            return auxv[: offset + 16]
    return auxv


def _count_pointers(table: bytes) -> int:
    return sum(1 for pointer in memoryview(table).cast("Q") if pointer)

"""Decoding of one task_struct, its restart block and the timer that it waits for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from ckpt.host import bpf_records as records
from ckpt.host.kernel_view import (
    BlockedTimer,
    CpuSleepRestart,
    FutexRestart,
    KernelId,
    MmView,
    NanosleepRestart,
    OtherRestart,
    PollRestart,
    ProcessView,
    RestartBlock,
    Rseq,
    ThreadView,
    UserRegs,
)

if TYPE_CHECKING:
    from ckpt.host.bpf_sort import Sorted
    from ckpt.host.kallsyms import Symbols

# tasks_core.bits, bpf/tasks.h
_RESTORE_SIGMASK: Final = 0x1
_IN_EXECVE: Final = 0x2
_NO_NEW_PRIVS: Final = 0x4
_IO_URING: Final = 0x8
_SEM_UNDO: Final = 0x10
_USER_DISPATCH: Final = 0x20
_VFORK_DONE: Final = 0x40
_CHILDREN: Final = 0x80
_BLOCKED_JIFFIES: Final = 2
_CLOCK_MONOTONIC: Final = 1
# kernel/futex/futex.h (6.18)
_FLAGS_HAS_TIMEOUT: Final = 0x40

_MEMBERS_OF_FIELDS: Final = {
    "in_execve": ("task_struct.in_execve",),
    "restore_sigmask": ("task_struct.restore_sigmask",),
    "has_io_uring": ("task_struct.io_uring",),
    "has_sysvsem_undo": ("task_struct.sysvsem.undo_list",),
    "compat_robust_list": ("task_struct.compat_robust_list",),
    "default_timer_slack_ns": ("task_struct.default_timer_slack_ns",),
    "has_syscall_user_dispatch": ("task_struct.thread_info.syscall_work",),
    "ti_status": ("task_struct.thread_info.status",),
    "real_blocked": ("task_struct.real_blocked",),
    "saved_sigmask": ("task_struct.saved_sigmask",),
    "exec_start_ns": ("task_struct.se.exec_start",),
    "jobctl": ("task_struct.jobctl",),
    "timer_create_restore_ids": ("signal_struct.timer_create_restore_ids",),
    "next_posix_timer_id": ("signal_struct.next_posix_timer_id",),
    "posix_timers": ("signal_struct.posix_timers.first",),
    "group_stop_count": ("signal_struct.group_stop_count",),
    "is_child_subreaper": ("signal_struct.is_child_subreaper",),
    "has_child_subreaper": ("signal_struct.has_child_subreaper",),
    "oom_score_adj_min": ("signal_struct.oom_score_adj_min",),
    "ldt": ("mm_struct.context.ldt",),
    "aio_contexts": ("mm_struct.ioctx_table",),
    "membarrier_state": ("mm_struct.membarrier_state",),
    "pkey_allocation_map": ("mm_struct.context.pkey_allocation_map",),
    "vdso": ("mm_struct.context.vdso",),
    "has_notify_users": ("mm_struct.notifier_subscriptions",),
}
"""Which view field cannot be trusted when a kernel lacks which struct member."""


_AnyView = TypeVar("_AnyView", ThreadView, ProcessView, MmView)


class Surroundings(NamedTuple):
    """What decoding needs besides the bytes."""

    symbols: Symbols
    identify: Callable[[int], KernelId]
    gaps: tuple[str, ...]
    tick_ns: int
    realtime_ns: int
    """CLOCK_REALTIME when the tasks had been read."""
    tai_ns: int


def decode_thread(
    core: records.TasksCore, abi: records.TasksAbi, found: Sorted, around: Surroundings
) -> ThreadView:
    """Decode a task_struct from its two records and what was found beside them."""
    restart = found.restarts.get(core.tid)
    blocked = found.blocked.get(core.tid)
    names = found.namespaces.get(abi.nsproxy)
    bits, identify = core.bits, around.identify
    view = ThreadView(
        tid=core.tid,
        tgid=core.tgid,
        comm=core.comm.split(b"\0", 1)[0].decode("utf-8", "backslashreplace"),
        state=core.state,
        exit_state=core.exit_state,
        exit_code=core.exit_code,
        flags=core.flags,
        observed_ns=core.observed_ns,
        boottime_ns=core.boottime_ns,
        restart=None if restart is None else decode_restart(restart, around.symbols),
        blocked_timer=None if blocked is None else _blocked_timer(core, blocked, around.tick_ns),
        regs=UserRegs(abi.orig_ax, abi.ax, abi.ip, abi.sp),
        ti_status=core.ti_status,
        ti_flags=abi.ti_flags,
        nvcsw=core.nvcsw,
        nivcsw=core.nivcsw,
        exec_start_ns=core.exec_start_ns,
        start_boottime_ns=core.start_boottime_ns,
        utime_ns=core.utime_ns,
        stime_ns=core.stime_ns,
        runtime_ns=core.runtime_ns,
        robust_list=abi.robust_list,
        compat_robust_list=abi.compat_robust_list,
        sas_ss_sp=abi.sas_ss_sp,
        sas_ss_size=abi.sas_ss_size,
        sas_ss_flags=abi.sas_ss_flags,
        set_child_tid=abi.set_child_tid,
        clear_child_tid=abi.clear_child_tid,
        exit_signal=core.exit_signal,
        pdeath_signal=core.pdeath_signal,
        personality=core.personality,
        timer_slack_ns=abi.timer_slack_ns,
        default_timer_slack_ns=abi.default_timer_slack_ns,
        rseq=Rseq(abi.rseq, abi.rseq_len, abi.rseq_sig),
        blocked=abi.blocked,
        real_blocked=abi.real_blocked,
        saved_sigmask=abi.saved_sigmask,
        restore_sigmask=bool(bits & _RESTORE_SIGMASK),
        pending=abi.pending,
        policy=core.policy,
        prio=core.prio,
        static_prio=core.static_prio,
        normal_prio=core.normal_prio,
        rt_priority=core.rt_priority,
        ptrace=core.ptrace,
        tracer_tid=core.tracer_tid,
        jobctl=core.jobctl,
        seccomp_mode=core.seccomp_mode,
        seccomp_filter_count=core.seccomp_filters,
        no_new_privs=bool(bits & _NO_NEW_PRIVS),
        in_execve=bool(bits & _IN_EXECVE),
        has_vfork_done=bool(bits & _VFORK_DONE),
        has_children=bool(bits & _CHILDREN),
        parent_tgid=core.parent_tgid,
        real_parent_tid=core.parent_tid,
        mm=identify(abi.mm),
        files=identify(abi.files),
        fs=identify(abi.fs),
        sighand=identify(abi.sighand),
        signal=identify(abi.signal),
        nsproxy=identify(abi.nsproxy),
        cred=identify(abi.cred),
        has_io_uring=bool(bits & _IO_URING),
        has_sysvsem_undo=bool(bits & _SEM_UNDO),
        has_syscall_user_dispatch=bool(bits & _USER_DISPATCH),
        pid_ns=core.pid_ns,
        user_ns=core.user_ns,
        securebits=abi.securebits,
        files_count=abi.files_count,
        fs_users=abi.fs_users,
        umask=abi.umask,
        sighand_count=abi.sighand_count,
        namespaces=names,
    )
    return without_gaps(view, around.gaps)


def without_gaps(view: _AnyView, gaps: tuple[str, ...]) -> _AnyView:
    """Replace by None what was read from members that this kernel lacks."""
    hidden = _hidden_fields(type(view), gaps)
    return msgspec.structs.replace(view, **dict.fromkeys(hidden)) if hidden else view


@cache
def _hidden_fields(view: type[msgspec.Struct], gaps: tuple[str, ...]) -> tuple[str, ...]:
    """Name the fields of a view that have no source in this kernel."""
    return tuple(
        field
        for field, members in _MEMBERS_OF_FIELDS.items()
        if field in view.__struct_fields__ and any(member in gaps for member in members)
    )


def decode_restart(fields: tuple[int, ...], symbols: Symbols) -> RestartBlock | None:
    """Decode a struct restart; which members mean something depends on the function."""
    block = records.Restart(*fields)
    if not block.fn:
        return None
    fn = symbols.name_at(block.fn) or "unknown"
    if fn in {"hrtimer_nanosleep_restart", "alarm_timer_nsleep_restart"}:
        return NanosleepRestart(fn, *_sleep_arguments(block))
    if fn == "posix_cpu_nsleep_restart":
        return CpuSleepRestart(fn, *_sleep_arguments(block))
    if fn == "futex_wait_restart":
        has_timeout = block.futex_flags & _FLAGS_HAS_TIMEOUT
        return FutexRestart(
            fn,
            block.futex_uaddr,
            block.futex_val,
            block.futex_flags,
            block.futex_bitset,
            block.futex_uaddr2,
            block.futex_time_ns if has_timeout else None,
        )
    if fn == "do_restart_poll":
        end_ns = block.poll_end_s * 1_000_000_000 + block.poll_end_ns
        return PollRestart(
            fn, block.poll_ufds, block.poll_nfds, end_ns if block.poll_has_timeout else None
        )
    return OtherRestart(fn)


def _sleep_arguments(block: records.Restart) -> tuple[int, int, int, int]:
    return (
        block.nanosleep_clockid,
        block.nanosleep_type,
        block.nanosleep_rmtp,
        block.nanosleep_expires_ns,
    )


def _blocked_timer(
    core: records.TasksCore, blocked: records.TasksBlocked, tick_ns: int
) -> BlockedTimer:
    if blocked.type != _BLOCKED_JIFFIES:
        return BlockedTimer("hrtimer", blocked.clockid, blocked.expires, blocked.latest)
    ticks = blocked.expires - blocked.jiffies
    expires_ns = core.observed_ns + ticks * tick_ns
    return BlockedTimer("process_timeout", _CLOCK_MONOTONIC, expires_ns, expires_ns + tick_ns)

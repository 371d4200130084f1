"""From the records of the iterator over tasks to views. Pure: bytes in, ``KernelView`` out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from ckpt.host import bpf_records as records
from ckpt.host.bpf_decode_process import (
    RLIMIT_COUNT,
    decode_mm,
    decode_posix_timer,
    decode_process,
    decode_rlimits,
    decode_sigactions,
)
from ckpt.host.kernel_view import (
    BlockedTimer,
    CpuSleepRestart,
    FutexRestart,
    KernelId,
    KernelView,
    MmView,
    Namespaces,
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
    from collections.abc import Callable

    from ckpt.host.kallsyms import Symbols

# enum tasks_kind, bpf/tasks.h
CORE: Final = 1
ABI: Final = 2
RESTART: Final = 3
BLOCKED: Final = 4
NAMESPACES: Final = 5
PROCESS: Final = 6
RLIMITS: Final = 7
SIGACTIONS: Final = 8
MM: Final = 9
AUXV: Final = 10
AIO: Final = 11
LDT: Final = 12

_HEADER_BYTES: Final = 16
"""TASKS_BYTES_HEADER."""
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


class Sorted(NamedTuple):
    """Records by what they describe."""

    cores: list[records.TasksCore]
    abis: list[records.TasksAbi]
    restarts: dict[int, tuple[int, ...]]
    """Fields of a struct restart."""
    blocked: dict[int, records.TasksBlocked]
    namespaces: dict[int, Namespaces]
    processes: list[records.TasksProcess]
    mms: list[tuple[records.TasksMm, dict[int, tuple[int, bytes]]]]
    arrays: dict[int, tuple[int, bytes]]
    """Kind to (bytes used, bytes) of what belongs to the process."""


def sort_records(buffer: bytes) -> Sorted:
    """Parse all records; those after a TasksCore belong to its task."""
    found = Sorted([], [], {}, {}, {}, [], [], {})
    for kind, offset, size in walk_records(buffer):
        if kind == CORE:
            found.cores.append(records.TasksCore(*records.TASKS_CORE.unpack_from(buffer, offset)))
        elif kind == ABI:
            found.abis.append(records.TasksAbi(*records.TASKS_ABI.unpack_from(buffer, offset)))
        else:
            _sort_other(found, kind, buffer, offset, size)
    return found


def _sort_other(found: Sorted, kind: int, buffer: bytes, offset: int, size: int) -> None:
    tid = found.cores[-1].tid
    if kind == RESTART:
        found.restarts[tid] = records.TASKS_RESTART.unpack_from(buffer, offset)[2:]
    elif kind == BLOCKED:
        found.blocked.setdefault(
            tid, records.TasksBlocked(*records.TASKS_BLOCKED.unpack_from(buffer, offset))
        )
    elif kind == NAMESPACES:
        fields = records.TASKS_NAMESPACES.unpack_from(buffer, offset)
        found.namespaces[fields[2]] = Namespaces(*fields[3:12])
    elif kind == PROCESS:
        found.processes.append(
            records.TasksProcess(*records.TASKS_PROCESS.unpack_from(buffer, offset))
        )
    elif kind == MM:
        found.mms.append((records.TasksMm(*records.TASKS_MM.unpack_from(buffer, offset)), {}))
    else:
        used = int.from_bytes(buffer[offset + 8 : offset + 12], "little")
        part = (used, buffer[offset + _HEADER_BYTES : offset + size])
        (found.mms[-1][1] if kind in {AUXV, AIO, LDT} else found.arrays)[kind] = part


def walk_records(buffer: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (kind, offset, size) of each record."""
    words = memoryview(buffer).cast("I")
    offset, end = 0, len(buffer)
    while offset < end:
        kind, size = words[offset // 4], words[offset // 4 + 1]
        assert 8 <= size <= end - offset, f"record of {size} bytes at {offset}"
        yield kind, offset, size
        offset += size


def find_process(buffer: bytes) -> records.TasksProcess | None:
    """Return the process record without decoding the rest; it is among the leader's, the first."""
    for kind, offset, _size in walk_records(buffer):
        if kind == PROCESS:
            return records.TasksProcess(*records.TASKS_PROCESS.unpack_from(buffer, offset))
    return None


def decode_tasks(buffer: bytes, timers: bytes | None, around: Surroundings) -> KernelView:
    """Decode everything that was read of one process. ``buffer`` must not be empty."""
    found = sort_records(buffer)
    cores = found.cores
    threads = {
        core.tid: _thread(core, abi, found, around)
        for core, abi in zip(cores, found.abis, strict=True)
    }
    first = cores[0]
    process = _process(found, timers, first, around)
    mms = {}
    for mm, arrays in found.mms:
        view = _mm(mm, arrays, around)
        mms[view.mm] = view
    return KernelView(
        source="bpf",
        tgid=first.tgid,
        observed_ns=first.observed_ns,
        boottime_ns=first.boottime_ns,
        threads=threads,
        process=process,
        mms=mms,
        gaps=around.gaps + _truncations(found),
    )


def _thread(
    core: records.TasksCore, abi: records.TasksAbi, found: Sorted, around: Surroundings
) -> ThreadView:
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
    hidden = {
        field: None
        for field, members in _MEMBERS_OF_FIELDS.items()
        if field in view.__struct_fields__ and any(member in gaps for member in members)
    }
    return msgspec.structs.replace(view, **hidden) if hidden else view


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


def _process(
    found: Sorted, timers: bytes | None, first: records.TasksCore, around: Surroundings
) -> ProcessView | None:
    if not found.processes:
        return None
    record = found.processes[0]
    _, limits = found.arrays[RLIMITS]
    _, actions = found.arrays.get(SIGACTIONS, (0, b""))
    assert len(limits) == RLIMIT_COUNT * 16
    posix_timers = None
    if timers is not None:
        threads = {core.tid: core for core in found.cores}
        posix_timers = tuple(
            decode_posix_timer(records.TimersRecord(*fields), record, threads, around)
            for fields in records.TIMERS_RECORD.iter_unpack(timers)
        )
    view = decode_process(
        record,
        first,
        decode_rlimits(limits),
        decode_sigactions(actions) if actions else None,
        posix_timers,
        around.identify,
        around.tick_ns,
    )
    return without_gaps(view, around.gaps)


def _mm(
    record: records.TasksMm, arrays: dict[int, tuple[int, bytes]], around: Surroundings
) -> MmView:
    view = decode_mm(
        record,
        auxv=arrays.get(AUXV, (0, b""))[1],
        aio=arrays.get(AIO, (0, b"")),
        ldt=arrays.get(LDT, (0, b"")),
        identify=around.identify,
    )
    return without_gaps(view, around.gaps)


def _truncations(found: Sorted) -> tuple[str, ...]:
    """Name arrays that were larger than what one record holds."""
    return tuple(
        f"mm_struct.{name}: only {len(data)} of {used} bytes were read"
        for _, arrays in found.mms
        for kind, name in ((LDT, "context.ldt"), (AIO, "ioctx_table"))
        for used, data in [arrays.get(kind, (0, b""))]
        if used > len(data)
    )

"""From one look without BPF to views. Pure: nothing here touches the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.host.kernel_view import (
    NO_OBJECT,
    KernelId,
    KernelView,
    MmView,
    ThreadView,
    UserRegs,
)
from ckpt.host.proc_asked import ThreadAnswers
from ckpt.host.proc_process import build_mm, build_process

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt.host.proc_reading import Look, Reading, Stopped
    from ckpt.host.proc_tasks import SharedObjects, Task

_SS_DISABLE: Final = 2
_IN_CALL: Final = (1 << 64) - 38
"""rax during a call: -ENOSYS, as the kernel's entry leaves it."""
_U64: Final = (1 << 64) - 1
_NOTHING: Final = ThreadAnswers()


def build_view(
    reading: Reading, identify: Callable[[object], KernelId], gaps: tuple[str, ...]
) -> KernelView:
    """Build the view of everything that was read."""
    threads = {tid: _build_thread(task, reading, identify) for tid, task in reading.tasks.items()}
    first = next(iter(reading.tasks.values()))
    living = reading.tasks[reading.living[0]] if reading.living else None
    process = None
    if living is not None and reading.process is not None:
        process = build_process(
            reading.tgid, living, reading.process, reading.answers, reading.timers, identify
        )
    mm = _build_mm(reading, living, identify)
    return KernelView(
        source="syscalls",
        tgid=reading.tgid,
        observed_ns=first.text.monotonic_ns,
        boottime_ns=first.text.boottime_ns,
        threads=threads,
        process=process,
        mms={} if mm is None else {mm.mm: mm},
        gaps=(*gaps, *reading.gaps),
    )


def _build_mm(
    reading: Reading, living: Task | None, identify: Callable[[object], KernelId]
) -> MmView | None:
    if living is None or reading.process is None or reading.answers is None:
        return None
    facts = summarize_maps(reading.maps)
    return build_mm(
        living,
        reading.process,
        reading.answers,
        identify,
        aio_contexts=facts.aio_contexts,
        vdso=facts.vdso,
        map_count=facts.map_count,
    )


class MapsFacts(NamedTuple):
    """What the areas tell about the mm."""

    map_count: int | None
    vdso: int | None
    aio_contexts: int | None


def summarize_maps(maps: bytes) -> MapsFacts:
    """Count areas and AIO rings, find the vdso; None: maps was not read."""
    if not maps:
        return MapsFacts(None, None, None)
    lines = maps.splitlines()
    # The whole label: a file's name may end like that.
    vdsos = [line for line in lines if line.split(None, 5)[5:] == [b"[vdso]"]]
    vdso = int(vdsos[0].partition(b"-")[0], 16) if vdsos else 0
    rings = [line for line in lines if b"/[aio]" in line]
    aio = sum(line.split(None, 5)[5].startswith(b"/[aio]") for line in rings)
    # The vsyscall page is shown in every process and is an area of none.
    return MapsFacts(len([line for line in lines if b"[vsyscall]" not in line]), vdso, aio)


def _user_regs(stop: Stopped | None, look: Look | None) -> UserRegs | None:
    if stop is not None:
        regs = stop.regs
        return UserRegs(regs.orig_rax, regs.rax, regs.rip, regs.rsp)
    if look is None:
        return None
    return UserRegs(look.wait.nr & _U64, _IN_CALL, look.wait.ip, look.wait.sp)


def _build_thread(
    task: Task, reading: Reading, identify: Callable[[object], KernelId]
) -> ThreadView:
    text, stat = task.text, task.stat
    stop, look = reading.stops.get(task.tid), reading.looks.get(task.tid)
    said = reading.thread_answers.get(task.tid, _NOTHING)
    stack, blocked = said.altstack, task.number(b"SigBlk", 16)
    own = _own_objects(task, reading.shared.get(task.tid), identify)
    name = text.stat.partition(b"(")[2].rpartition(b")")[0]
    return ThreadView(
        tid=task.tid,
        tgid=reading.tgid,
        comm=name.decode("utf-8", "backslashreplace"),
        state=task.state,
        exit_state=task.exit_state,
        exit_code=stat.exit_code,
        flags=stat.flags,
        observed_ns=text.monotonic_ns,
        boottime_ns=text.boottime_ns,
        restart=stop.restart if stop else None,
        blocked_timer=look.timer if look else None,
        regs=_user_regs(stop, look),
        ti_status=None,
        ti_flags=None,
        nvcsw=task.number(b"voluntary_ctxt_switches"),
        nivcsw=task.number(b"nonvoluntary_ctxt_switches"),
        exec_start_ns=task.sleep.exec_start_ns if task.sleep else None,
        start_boottime_ns=None,
        utime_ns=None,
        stime_ns=None,
        runtime_ns=None,
        robust_list=text.robust_list,
        compat_robust_list=None,
        sas_ss_sp=stack.sp if stack else None,
        sas_ss_size=stack.size if stack else None,
        sas_ss_flags=stack.flags if stack else None,
        set_child_tid=None,
        clear_child_tid=said.clear_child_tid,
        exit_signal=stat.exit_signal,
        pdeath_signal=said.pdeath_signal,
        personality=text.personality,
        timer_slack_ns=text.timer_slack_ns,
        default_timer_slack_ns=None,
        rseq=stop.rseq if stop else None,
        blocked=blocked,
        real_blocked=None,
        saved_sigmask=stop.mask if stop else None,
        restore_sigmask=stop.mask != blocked if stop else None,
        pending=task.number(b"SigPnd", 16),
        policy=stat.policy,
        prio=task.prio,
        static_prio=task.static_prio,
        normal_prio=None,
        rt_priority=stat.rt_priority,
        ptrace=None,
        tracer_tid=task.number(b"TracerPid"),
        jobctl=None,
        seccomp_mode=task.number(b"Seccomp"),
        seccomp_filter_count=task.number(b"Seccomp_filters"),
        no_new_privs=bool(task.number(b"NoNewPrivs")),
        in_execve=None,
        has_vfork_done=None,
        has_children=text.has_children,
        parent_tgid=stat.parent,
        real_parent_tid=None,
        mm=own.mm,
        files=own.files,
        fs=own.fs,
        sighand=own.sighand,
        signal=identify("signal"),
        nsproxy=own.nsproxy,
        cred=None,
        has_io_uring=None,
        has_sysvsem_undo=None,
        has_syscall_user_dispatch=None,
        pid_ns=text.namespaces[-2] or None,
        user_ns=text.namespaces[-1] or None,
        securebits=said.securebits,
        tsc_faults=said.tsc_faults,
        cpuid_faults=said.cpuid_faults,
        files_count=None,
        fs_users=None,
        umask=task.number(b"Umask", 8) if b"Umask" in task.status else None,
        sighand_count=None,
        namespaces=task.namespaces,
    )


class _Own(NamedTuple):
    mm: KernelId | None
    files: KernelId | None
    fs: KernelId | None
    sighand: KernelId | None
    nsproxy: KernelId | None


def _own_objects(
    task: Task, shared: SharedObjects | None, identify: Callable[[object], KernelId]
) -> _Own:
    """Name the objects of a thread: mm and sighand are one for all threads of a process."""
    if task.exit_state:
        return _Own(NO_OBJECT, NO_OBJECT, NO_OBJECT, NO_OBJECT, NO_OBJECT)
    nsproxy = identify(("nsproxy", *task.text.namespaces[:-2]))
    files = identify(("files", shared.files)) if shared else None
    fs = identify(("fs", shared.fs)) if shared else None
    return _Own(identify("mm"), files, fs, identify("sighand"), nsproxy)

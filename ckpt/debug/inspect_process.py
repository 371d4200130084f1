"""What the threads of a live process share: signals, timers, limits, credentials, and with whom."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.call_flags import name_sa_flags
from ckpt.debug.inspect_restart import clock_name
from ckpt.debug.inspect_thread import names_of
from ckpt.debug.inspect_types import (
    Credentials,
    Disposition,
    Limit,
    ProcessReport,
    Sharing,
    Timer,
    Who,
)
from ckpt.debug.text import escape, escape_bytes, shorten
from ckpt.host.kernel_view import PF_KTHREAD, SIGNAL_GROUP_EXIT, SIGNAL_STOP_STOPPED
from ckpt.host.status import parse_credentials, parse_fields, read_small
from ckpt.objects.siginfo import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckpt.debug.inspect_types import ThreadReport
    from ckpt.debug.live_space import LiveSpace
    from ckpt.host.kernel_view import KernelView, PosixTimer, ProcessView, ThreadView
    from ckpt.host.surroundings import PeerTask

_MAX_COMMAND: Final = 400
_SIG_IGN: Final = 1
_TTY_MAJOR, _FIRST_SERIAL = 4, 64
_PTY_MAJOR, _PTY_MAJORS = 136, 8
"""`Documentation/admin-guide/devices.txt`"""
_LIMITS: Final = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS"),
    *("LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)
"""By RLIMIT_* number, include/uapi/asm-generic/resource.h."""
_INFINITY: Final = (1 << 64) - 1
_SIGEV: Final = {0: "signal", 1: "nothing", 2: "thread", 4: "signal to thread"}
_CAPABILITY_NAMES: Final = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable "
    "net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio "
    "sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time "
    "sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog "
    "wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
)
"""By number, include/uapi/linux/capability.h, 6.18."""
_CORE_DUMPED: Final = 0x80


class Surrounding(NamedTuple):
    """What a process's report needs besides the kernel view."""

    peers: Sequence[PeerTask]
    space: LiveSpace | None
    name_task: Callable[[int], Who]
    has_bpf: bool


def report_process(
    view: KernelView,
    threads: Sequence[ThreadReport],
    around: Surrounding,
    gaps: Sequence[str],
) -> ProcessReport:
    """Make the report of one process."""
    pid = view.tgid
    leader = view.threads.get(pid) or next(iter(view.threads.values()))
    process = view.process
    found = list(gaps)
    return ProcessReport(
        pid=pid,
        comm=escape(leader.comm),
        exe=_read_exe(pid),
        cmdline=_read_command(pid, may_read=around.space is not None),
        kind=_kind(leader, threads),
        parent=around.name_task(leader.parent_tgid) if leader.parent_tgid else None,
        group=process.pgrp if process is not None else 0,
        session=process.session if process is not None else 0,
        tty=_tty(process),
        exit_status=_exit_status(leader),
        threads=tuple(threads),
        thread_count=len(view.threads),
        pending=names_of(process.shared_pending) if process is not None else (),
        dispositions=_dispositions(process, around.space),
        timers=_timers(process),
        limits=_limits(process),
        sharing=tuple(_sharing(view, leader, around)),
        credentials=_credentials(pid, leader, found),
        deadlocks=tuple(find_deadlocks(threads)),
        flags=tuple(_flags(process, view)),
        gaps=tuple(found),
    )


def _read_exe(pid: int) -> str:
    try:
        return escape(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def _read_command(pid: int, *, may_read: bool) -> str:
    """Return the command line; it stands in the target's memory, which may be out of bounds."""
    if not may_read:
        return ""
    try:
        words = read_small(f"/proc/{pid}/cmdline").rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    return shorten(
        " ".join(word.decode("utf-8", "surrogateescape") for word in words), _MAX_COMMAND
    )


def _kind(leader: ThreadView, threads: Sequence[ThreadReport]) -> str:
    if (leader.flags or 0) & PF_KTHREAD:
        return "kernel thread"
    if leader.exit_state and not any(thread.state not in "ZX" for thread in threads):
        return "zombie"
    is_32bit = any((thread.registers or {}).get("cs") == 0x23 for thread in threads)
    return "32-bit process" if is_32bit else "process"


def _tty(process: ProcessView | None) -> str:
    """Return the controlling terminal by its usual name, else by its number; empty: none."""
    if process is None or not process.tty_dev:
        return ""
    major, minor = os.major(process.tty_dev), os.minor(process.tty_dev)
    if 0 <= major - _PTY_MAJOR < _PTY_MAJORS:
        return f"/dev/pts/{(major - _PTY_MAJOR) * 256 + minor}"
    if major == _TTY_MAJOR:
        return f"/dev/tty{minor}" if minor < _FIRST_SERIAL else f"/dev/ttyS{minor - _FIRST_SERIAL}"
    return f"{major}:{minor}"


def _exit_status(leader: ThreadView) -> str:
    code = leader.exit_code
    if not leader.exit_state or code is None:
        return ""
    signo = code & 0x7F
    if not signo:
        return f"exited with {code >> 8}"
    return f"killed by {name_of(signo)}{', core dumped' if code & _CORE_DUMPED else ''}"


def _dispositions(
    process: ProcessView | None, space: LiveSpace | None
) -> tuple[Disposition, ...] | None:
    """Return every disposition that is not the default."""
    if process is None or process.sigactions is None:
        return None
    found = []
    for signo, action in enumerate(process.sigactions, 1):
        if not action.handler:
            continue
        place = "" if space is None else space.locate(action.handler)
        if action.handler == _SIG_IGN:
            place = "ignored"
        flags = name_sa_flags(action.flags)
        found.append(
            Disposition(name_of(signo), action.handler, place, flags, names_of(action.mask))
        )
    return tuple(found)


def _timers(process: ProcessView | None) -> tuple[Timer, ...] | None:
    if process is None or process.posix_timers is None:
        return None
    found = [_posix_timer(timer) for timer in process.posix_timers]
    for name, clock, itimer, signal in (
        ("ITIMER_REAL", "CLOCK_MONOTONIC", process.itimer_real, "SIGALRM"),
        ("ITIMER_VIRTUAL", "user CPU time", process.itimer_virtual, "SIGVTALRM"),
        ("ITIMER_PROF", "CPU time", process.itimer_prof, "SIGPROF"),
    ):
        if itimer is not None and itimer.value_ns:
            found.append(
                Timer(name, clock, itimer.value_ns, itimer.interval_ns, f"signal {signal}", 0)
            )
    return tuple(found)


def _posix_timer(timer: PosixTimer) -> Timer:
    notifies = _SIGEV.get(timer.notify, f"SIGEV {timer.notify}")
    if timer.notify == 4:
        notifies += f" {timer.notify_tid}"
    if timer.notify != 1:
        notifies += f" {name_of(timer.signo)}"
    if timer.signal_queued:
        notifies += ", queued"
    name, clock = f"timer {timer.timer_id}", clock_name(timer.clockid)
    return Timer(name, clock, timer.value_ns, timer.interval_ns, notifies, timer.overrun)


def _limits(process: ProcessView | None) -> tuple[Limit, ...] | None:
    if process is None:
        return None
    return tuple(
        Limit(name, _limit(limit.soft), _limit(limit.hard))
        for name, limit in zip(_LIMITS, process.rlimits, strict=False)
    )


def _limit(value: int) -> int | None:
    return None if value == _INFINITY else value


def _sharing(view: KernelView, leader: ThreadView, around: Surrounding) -> Iterator[Sharing]:
    """Yield who else has the objects of the process; without BPF only its own threads are known."""
    alive = [thread for thread in view.threads.values() if not thread.exit_state]
    if not alive or (leader.flags or 0) & PF_KTHREAD:
        return
    first = leader if not leader.exit_state else alive[0]
    counts = {
        "mm": view.mm.mm_users if view.mm is not None else None,
        "files": first.files_count,
        "fs": first.fs_users,
        "sighand": first.sighand_count,
    }
    for what, users in counts.items():
        own = getattr(first, what)
        threads = sum(getattr(thread, what) == own for thread in alive)
        others = tuple(
            Who(peer.tid, peer.tgid, escape(peer.comm))
            for peer in around.peers
            if own and getattr(peer, what) == own and peer.tgid != view.tgid
        )
        yield Sharing(what, threads, others, users, around.has_bpf)


def _credentials(pid: int, leader: ThreadView, gaps: list[str]) -> Credentials | None:
    try:
        found = parse_credentials(parse_fields(read_small(f"/proc/{pid}/status")))
    except (OSError, KeyError):
        gaps.append("credentials: /proc/PID/status cannot be read")
        return None
    sets = {
        "effective": found.effective,
        "permitted": found.permitted,
        "inheritable": found.inheritable,
        "bounding": found.bounding,
        "ambient": found.ambient,
    }
    return Credentials(
        found.uids,
        found.gids,
        found.groups,
        {name: _name_capabilities(value) for name, value in sets.items()},
        leader.securebits,
    )


def _name_capabilities(value: int) -> str:
    """Return `none`, `all`, or names; of many the ones that are missing."""
    capabilities = _CAPABILITY_NAMES.split()
    everything = (1 << len(capabilities)) - 1
    if not value:
        return "none"
    if value & everything == everything:
        return "all"
    names = [name for bit, name in enumerate(capabilities) if value >> bit & 1]
    missing = [name for bit, name in enumerate(capabilities) if not value >> bit & 1]
    return ", ".join(names) if len(names) <= len(missing) else f"all but {', '.join(missing)}"


def find_deadlocks(threads: Sequence[ThreadReport]) -> Iterator[tuple[int, ...]]:
    """Yield each circle of threads that wait for one another, from its lowest tid on."""
    waits = {
        thread.tid: thread.futex.owner_tid
        for thread in threads
        if thread.futex is not None and thread.futex.owner_tid
    }
    done: set[int] = set()
    for start in sorted(waits):
        path: list[int] = []
        tid = start
        while tid in waits and tid not in done:
            done.add(tid)
            path.append(tid)
            tid = waits[tid]
        if tid in path:
            circle = path[path.index(tid) :]
            lowest = circle.index(min(circle))
            yield (*circle[lowest:], *circle[:lowest])


def _flags(process: ProcessView | None, view: KernelView) -> Iterator[str]:
    """Yield what the process is in the middle of."""
    flags = (process.signal_flags if process is not None else 0) or 0
    if flags & SIGNAL_STOP_STOPPED:
        yield "stopped by a signal, all threads"
    if flags & SIGNAL_GROUP_EXIT:
        yield "all threads are ending"
    for thread in view.threads.values():
        if thread.in_execve:
            yield f"thread {thread.tid} is in execve"
        is_kernel_thread = (thread.flags or 0) & PF_KTHREAD
        if thread.has_vfork_done and not is_kernel_thread:
            yield "made by vfork: its parent waits until it calls exec or ends"
        if thread.has_io_uring:
            yield f"thread {thread.tid} has used io_uring"


def name_command(pid: int) -> str:
    """Return the name of a task from /proc, as safe text; empty: there is none."""
    try:
        return escape_bytes(read_small(f"/proc/{pid}/comm").rstrip(b"\n"))
    except OSError:
        return ""

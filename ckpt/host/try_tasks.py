"""Trials of ptrace, of making tasks, and of looking into them."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from typing import TYPE_CHECKING, Final

from ckpt.host import ptrace, syscalls
from ckpt.host.features import Sleeper, Trial
from ckpt.host.probe import probe_quick_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SYS_UNSHARE: Final = 272
SYS_PRCTL: Final = 157
CLONE_NEWTIME: Final = 0x80
PR_SET_MM: Final = 35
PR_SET_MM_MAP_SIZE: Final = 15
_CLONE_ARGS: Final = struct.Struct("<11Q")


def trials() -> Iterable[Trial]:
    """Return the trials of this group."""
    root = "run as root"
    kernel = "a kernel with CONFIG_CHECKPOINT_RESTORE"
    return (
        Trial("ptrace_seize", _seize, "nothing can be snapshotted", root),
        Trial("suspend_seccomp", _suspend, "no restore of processes with seccomp filters", root),
        Trial("seccomp_filters", _get_filter, "no snapshot of seccomp filters", root),
        Trial("rseq_configuration", _get_rseq, "rseq registrations are lost without BPF", kernel),
        Trial(
            "syscall_user_dispatch",
            _get_dispatch,
            "syscall user dispatch is lost",
            "a kernel from 6.4 on",
        ),
        Trial("peek_siginfo", _peek_siginfo, "queued signals are lost", kernel),
        Trial("clone3_set_tid", _clone_with_tid, "nothing can be restored", f"{kernel}; {root}"),
        Trial("set_mm_map", _get_mm_map_size, "brk, argv and exe do not come back", kernel),
        Trial(
            "time_namespace",
            _enter_timens,
            "CLOCK_MONOTONIC and CLOCK_BOOTTIME show the pause",
            f"a kernel with CONFIG_TIME_NS; {root}",
            in_child=True,
        ),
        Trial(
            "timer_restore_ids",
            _quick("timer_restore_ids"),
            "POSIX timers with gaps in their ids take longer to restore",
            "a kernel from 6.16 on",
        ),
        Trial(
            "cpuid_faulting",
            _quick("cpuid_faulting"),
            "processes that had CPUID fault cannot be restored",
            "another CPU, or a hypervisor that shows the feature",
        ),
        Trial("kcmp", _kcmp, "without BPF, shared descriptors are not recognised", kernel),
        Trial("pidfd_getfd", _getfd, "descriptors cannot be looked at", "a kernel from 5.6 on"),
        Trial(
            "children_file",
            _read_children,
            "without BPF, children are not found",
            "a kernel with CONFIG_PROC_CHILDREN",
        ),
        Trial("cgroup_freezer", _find_freezer, "trees cannot be frozen at once", "mount cgroup2"),
    )


def _on_stopped(work: Callable[[int], object]) -> None:
    """Do `work` on a stopped child of ours."""
    with Sleeper() as pid:
        ptrace.seize(pid)
        ptrace.interrupt(pid)
        ptrace.wait_stop(pid)
        work(pid)


def _seize() -> None:
    _on_stopped(ptrace.get_sigmask)


def _suspend() -> None:
    _on_stopped(lambda pid: ptrace.set_options(pid, int(ptrace.Option.SUSPEND_SECCOMP)))


def _get_filter() -> None:
    """A task without filters answers EINVAL, once we are found to be allowed to ask."""
    try:
        _on_stopped(lambda pid: ptrace.get_seccomp_filter(pid, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def _get_rseq() -> None:
    _on_stopped(lambda pid: ptrace.get_record(pid, ptrace.Request.GET_RSEQ_CONFIGURATION, 24))


def _get_dispatch() -> None:
    request = ptrace.Request.GET_SYSCALL_USER_DISPATCH_CONFIG
    _on_stopped(lambda pid: ptrace.get_record(pid, request, 32))


def _peek_siginfo() -> None:
    _on_stopped(lambda pid: ptrace.peek_siginfo(pid, shared=False))


def _clone_with_tid() -> None:
    """Give a child the number of one that has just ended; a few tries in case it is taken."""
    last: OSError | None = None
    for _ in range(5):
        free = os.fork()
        if free == 0:
            os._exit(0)
        os.waitpid(free, 0)
        try:
            _clone_exiting(free)
        except FileExistsError as error:
            last = error
            continue
        return
    raise last or OSError(errno.EEXIST, os.strerror(errno.EEXIST))


def _clone_exiting(pid: int) -> None:
    """Make a child with number `pid` that exits at once, and reap it."""
    wanted = (ctypes.c_int32 * 1)(pid)
    args = ctypes.create_string_buffer(
        _CLONE_ARGS.pack(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    )
    made = syscalls.syscall(syscalls.SYS_CLONE3, args, _CLONE_ARGS.size)
    if made == 0:
        os._exit(0)
    os.waitpid(made, 0)


def _get_mm_map_size() -> None:
    size = ctypes.create_string_buffer(4)
    syscalls.syscall(SYS_PRCTL, PR_SET_MM, PR_SET_MM_MAP_SIZE, size, 0, 0)


def _enter_timens() -> None:
    syscalls.syscall(SYS_UNSHARE, CLONE_NEWTIME)
    with open("/proc/self/timens_offsets", "w") as file:
        file.write("monotonic 1 0\n")
    fd = os.open("/proc/self/ns/time_for_children", os.O_RDONLY)
    syscalls.syscall(308, fd, CLONE_NEWTIME)


def _quick(name: str) -> Callable[[], None]:
    def attempt() -> None:
        if not probe_quick_features()[name]:
            raise LookupError("not supported")

    return attempt


def _kcmp() -> None:
    if not syscalls.kcmp_same(os.getpid(), os.getpid(), syscalls.KCMP_VM):
        raise ValueError("says that we are not we")


def _getfd() -> None:
    reader, writer = os.pipe()
    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(syscalls.pidfd_getfd(pidfd, reader))
    finally:
        for fd in (reader, writer, pidfd):
            os.close(fd)


def _read_children() -> None:
    with open(f"/proc/self/task/{os.getpid()}/children", "rb") as file:
        file.read()


def _find_freezer() -> str:
    """Find a version 2 hierarchy (or a version 1 freezer) in which we may make groups."""
    with open("/proc/self/mountinfo") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split()[:3]
            is_v1 = kind == "cgroup" and "freezer" in options.split(",")
            path = before.split()[4]
            if (kind == "cgroup2" or is_v1) and os.access(path, os.W_OK):
                return f"{kind} on {path}"
    raise LookupError("no hierarchy that we may write to")

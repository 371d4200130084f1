"""The process that a snapshot is asked for: may it be looked at, and what is it made of.

Everything here happens while the target runs, but for `observe_frozen`. Each refusal has its own
message, and leaves no trace in the target.
"""

from __future__ import annotations

import os
import select
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Final

from ckpt import reissue
from ckpt.errors import CaptureError, Finding, HostError
from ckpt.freeze import is_zombie, list_tids, read_state
from ckpt.host.sleepers import read_remainders
from ckpt.host.status import parse_fields
from ckpt.objects import modules
from ckpt.objects.base import Identities, Options, Process, raise_blockers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckpt.host.kernel_view import KernelView
    from ckpt.host.observer import Observer, TaskWatch

_PF_KTHREAD: Final = 0x200000
_ELFCLASS32: Final = 1
_TASK_UNINTERRUPTIBLE: Final = 2
"""`include/linux/sched.h`; state D"""
_SYS_CLONE, _SYS_VFORK, _SYS_CLONE3 = 56, 58, 435
_CLONE_VFORK: Final = 0x4000
"""`include/uapi/linux/sched.h`"""
GONE: Final = (ProcessLookupError, FileNotFoundError, ChildProcessError)
"""What looking at a thread that is not there any more raises."""
_SURVEYS: Final = 8
EPOLL: Final = "eventpoll_fops"


def examine(pid: int, options: Options) -> Process:
    """Open process `pid` for a snapshot.

    Raises:
        CkptError: there is no such process, or it is not one that can be snapshotted.
    """
    where = f"pid {pid}"
    if os.geteuid() != 0:
        raise HostError("only root can snapshot", where=where, hint=f"sudo ckpt-bpf snapshot {pid}")
    if pid == os.getpid():
        raise CaptureError("is this program itself", where=where)
    if pid == 1:
        raise CaptureError("is init, which cannot be stopped or restored", where=where)
    try:
        for found in chain(find_other_kind(pid), find_tracer(pid), find_32_bit(pid)):
            raise CaptureError(found.what, where=found.where, hint=found.hint)
    except GONE as error:
        raise CaptureError("no such process", where=where) from error
    return open_process(pid, options)


def open_process(pid: int, options: Options) -> Process:
    """Open process `pid` as it is; the caller closes its `pidfd`.

    Raises:
        CaptureError: there is no such process.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except GONE as error:
        raise CaptureError("no such process", where=f"pid {pid}") from error
    process = Process(pid, options, Identities())
    process.pidfd = pidfd
    try:
        refresh(process)
    except CaptureError:
        os.close(pidfd)
        raise
    return process


def refresh(process: Process) -> None:
    """List the threads of a running process again.

    Raises:
        CaptureError: it has ended.
    """
    tids = list_tids(process.tgid)
    if not tids or has_ended(process):
        raise CaptureError("ended while it was looked at", where=f"process {process.tgid}")
    process.tids = tids
    process.leader_alive = process.tgid in tids
    process.living_tid = tids[0]


def has_ended(process: Process) -> bool:
    """Tell whether all threads have ended, whoever has the pid now."""
    return bool(select.select([process.pidfd], [], [], 0)[0])


def find_other_kind(pid: int) -> Iterator[Finding]:
    """Yield why `pid` is no process that runs a program, if so: nothing more can be said of it."""
    fields = _read_status(pid)
    tgid, parent = int(fields[b"Tgid"]), int(fields[b"PPid"])
    where = f"pid {pid}"
    if tgid != pid:
        hint = f"snapshot the process: ckpt-bpf snapshot {tgid}"
        yield Finding(where, f"is a thread of process {tgid}", hint)
    elif _read_flags(pid) & _PF_KTHREAD:
        yield Finding(where, "is a kernel thread")
    elif is_zombie(pid, pid) and len(os.listdir(f"/proc/{pid}/task")) == 1:
        what = f"has ended; its parent {parent} ({_comm(parent)}) has not noticed yet (a zombie)"
        yield Finding(where, what)


def find_tracer(pid: int) -> Iterator[Finding]:
    """Yield who traces the main thread, if anybody does."""
    tracer = int(_read_status(pid)[b"TracerPid"])
    if tracer:
        what = f"is traced by process {tracer} ({_comm(tracer)})"
        yield Finding(f"pid {pid}", what, "end the debugger first")


def find_32_bit(pid: int) -> Iterator[Finding]:
    """Yield that the program is a 32-bit one, if it is."""
    if _elf_class(pid) == _ELFCLASS32:
        yield Finding(f"pid {pid}", "is a 32-bit program, which is not supported")


def _read_status(pid: int) -> dict[bytes, bytes]:
    with open(f"/proc/{pid}/status", "rb") as file:
        return parse_fields(file.read())


def _read_flags(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[6])


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "gone"


def _elf_class(pid: int) -> int:
    for tid in list_tids(pid):
        try:
            with open(f"/proc/{pid}/task/{tid}/exe", "rb") as exe:
                head = exe.read(5)
        except OSError:
            continue
        return head[4] if head[:4] == b"\x7fELF" and len(head) == 5 else 0
    return 0


@contextmanager
def open_observer(process: Process) -> Iterator[Observer | None]:
    """Open the BPF observer, or the one that asks stopped threads.

    Raises:
        HostError: BPF was not ruled out and does not work here; the hint says what to do.
    """
    if process.options.no_bpf:
        from ckpt.host.proc_view import ProcObserver

        yield ProcObserver(
            process.pidfd,
            lambda: process.stops if process.is_frozen else (),
            frozen_ns=lambda: process.frozen_ns,
        )
        return
    from ckpt.host import bpf

    with bpf.open_observer() as observer:
        process.observer = observer
        try:
            yield observer
        finally:
            process.observer = None


def estimate_bytes(process: Process) -> int:
    """Return about how many bytes of pages the image will have: what is resident, not of files."""
    fields = parse_fields(process.read("status"))
    sizes = (fields.get(name, b"0 kB") for name in (b"RssAnon", b"RssShmem", b"VmSwap"))
    return sum(int(size.split()[0]) for size in sizes) * 1024


@contextmanager
def watch_tasks(process: Process, observer: Observer | None) -> Iterator[None]:
    """Record forks, execs and exits of the target while it is being stopped."""
    if observer is None or observer.source != "bpf":
        yield
        return
    with observer.watch_tasks(process.tgid) as events:
        process.task_events = events
        try:
            yield
        finally:
            process.task_events = None


def survey(process: Process, observer: Observer | None) -> list[Finding]:
    """Let every object module look at the running process, and look again if that changes.

    Raises:
        CaptureError: it ended, or never stays the same for long enough.
    """
    for _ in range(_SURVEYS):
        try:
            observe_running(process, observer)
            return _survey_once(process)
        except GONE:
            refresh(process)
    raise CaptureError(
        "changed each time that it was looked at (threads that end, programs that are executed)",
        where=f"process {process.tgid}",
        hint="run the snapshot again",
    )


@contextmanager
def naming_the_end(process: Process) -> Iterator[None]:
    """Say so when threads turn out to be gone: the process was killed, or executed a program."""
    try:
        yield
    except GONE as error:
        where = f"process {process.tgid}"
        if has_ended(process):
            what = "ended, or was killed, while it was being stopped and read"
            raise CaptureError(what, where=where) from error
        if set(process.tids) <= set(list_tids(process.tgid)):
            raise
        what, hint = "changed while it was being stopped", "run the snapshot again"
        raise CaptureError(what, where=where, hint=hint) from error


def _survey_once(process: Process) -> list[Finding]:
    return [finding for look in surveys().values() for finding in look(process)]


def surveys() -> dict[str, Callable[[Process], Iterable[Finding]]]:
    """Return every look at a running process that may find a blocker, by what it looks at."""
    looks: dict[str, Callable[[Process], Iterable[Finding]]] = {"vfork": _find_vforks}
    for module in modules():
        if hasattr(module, "survey"):
            looks[module.__name__.rpartition(".")[2]] = module.survey
    return looks


def _find_vforks(process: Process) -> Iterator[Finding]:
    """Find threads that no stop reaches, because they wait for a child of vfork."""
    for tid in process.tids:
        view = process.before_views.get(tid)
        if view is not None and not view.state & _TASK_UNINTERRUPTIBLE:
            continue
        try:
            call = process.read("syscall", tid).split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if is_vfork(call) and read_state(process.tgid, tid).startswith("D"):
            children = process.read("children", tid).split()
            names = ", ".join(f"{int(pid)} ({_comm(int(pid))})" for pid in children)
            yield Finding(
                f"tid {tid}",
                f"waits in vfork until its child {names} executes a program or ends",
                "wait for that, or end the child",
            )


def is_vfork(call: Sequence[bytes]) -> bool:
    """Tell whether a line of /proc/TID/syscall, in words, is a call that may wait for a child."""
    if call[0] == str(_SYS_CLONE).encode():
        return bool(int(call[1], 16) & _CLONE_VFORK)
    return call[0] in (str(_SYS_VFORK).encode(), str(_SYS_CLONE3).encode())


def observe_running(process: Process, observer: Observer | None) -> None:
    """Look at the threads just before the freeze: the deadlines of blocked calls."""
    if observer is not None:
        view = observe_waits(process, observer)
        reissue.prepare(view.threads.values())
        process.thread_views = view.threads
        process.process_view = view.process
        process.mm_view = view.mm
        process.file_views = {file.fd: file for file in observer.observe_files(process.living_tid)}


def observe_waits(process: Process, observer: Observer) -> KernelView:
    """See what every thread waits for; once more right before the stop, for a wait may be short."""
    view = observer.observe_threads(process.tgid)
    process.before_views = view.threads
    process.remainders = read_remainders(process.tgid, view.threads.values())
    return view


def observe_frozen(process: Process, observer: Observer | None) -> None:
    """Look at everything once more, now that nothing moves."""
    if observer is None:
        return
    view = observer.observe_threads(process.tgid)
    process.thread_views = view.threads
    process.process_view = view.process
    process.mm_view = view.mm
    process.file_views = {file.fd: file for file in observer.observe_files(process.living_tid)}
    if observer.source == "bpf" and any(v.f_op == EPOLL for v in process.file_views.values()):
        process.ready_watches = observer.read_ready_watches(process.living_tid)
    if view.source == "syscalls":
        for gap in view.gaps:
            process.warn(f"process {process.tgid} without BPF", gap)


def check_complete(process: Process) -> None:
    """Prove that every thread is stopped: by the kernel's list, and by what happened meanwhile.

    Raises:
        RefusedError: a thread is missing, or a child was made while we were stopping the process.
    """
    living = {tid for tid, view in process.thread_views.items() if not view.exit_state}
    missed = living - set(process.stops)
    if process.task_events is not None:
        missed |= _find_missed(process, process.task_events)
    for tid in sorted(missed):
        process.refuse(f"tid {tid}", "came while the process was being stopped", "try again")
    raise_blockers(process.findings, "the process changed while it was being stopped")


def _find_missed(process: Process, events: TaskWatch) -> set[int]:
    """Return the tasks that were made while we watched, live still and are not stopped."""
    made: set[int] = set()
    for event in events.drain():
        if event.kind == "fork":
            made.add(event.other_tid)
        elif event.kind == "exit":
            made.discard(event.tid)
    if events.lost:
        process.refuse(
            f"process {process.tgid}", f"{events.lost} events of its tasks were lost", "try again"
        )
    return made - set(process.stops)

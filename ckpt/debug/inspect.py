"""A first look at a live process or thread: `inspect(pid)`, or an `Inspector` for many looks.

    from ckpt.debug.inspect import Inspector, inspect

    print(inspect(412).processes[0].threads[0].call.text)
    with Inspector() as inspector:
        while True:
            look = inspector.inspect(412)

Nothing is stopped, and nothing runs in the target: BPF iterators read the kernel, /proc the rest,
and memory is read from outside. Results are `ckpt.debug.inspect_types`. Without BPF (no root) what
/proc allows is shown, and `gaps` names the rest.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.fd_names import FdNames
from ckpt.debug.futexes import Futexes
from ckpt.debug.inspect_process import Surrounding, name_command, report_process
from ckpt.debug.inspect_thread import Around, ThreadInspector
from ckpt.debug.inspect_types import Inspection, Who
from ckpt.debug.live_space import LiveSpace
from ckpt.debug.symbol_store import SymbolStore
from ckpt.debug.text import escape
from ckpt.debug.tree import Family, read_peers
from ckpt.errors import CaptureError, HostError
from ckpt.host.bpf_cache import Cache
from ckpt.host.kernel_view import NO_OBJECT, PF_KTHREAD, TASK_UNINTERRUPTIBLE, FutexRestart
from ckpt.host.status import parse_fields, read_small
from ckpt.host.surroundings import PeerTask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from ckpt.debug.inspect_types import ProcessReport, ThreadReport, TreeNode
    from ckpt.host.bpf import BpfObserver
    from ckpt.host.kernel_view import KernelView, ThreadView
    from ckpt.host.surroundings import ThreadPlace

MAX_SCREENS: Final = 8
"""Processes of a tree that are reported in full; of a larger one only that which was asked for."""
MAX_STACKS: Final = 256
"""Threads of a process whose user stacks are walked."""
_LOOKS_AT_LOCK: Final = 4
_LOOK_EVERY_S: Final = 0.005
_WITHOUT_BPF: Final = (
    "restart_block, alternate stack, dispositions with handlers, POSIX timers, rseq, who shares "
    "mm, files, fs and sighand: only BPF shows them"
)


class _Look(NamedTuple):
    """What the kernel said of one process."""

    source: str
    view: KernelView
    places: dict[int, ThreadPlace]
    peers: Sequence[PeerTask]
    gaps: tuple[str, ...]


class Inspector:
    """Looks at processes, again and again; use as a context manager, from one thread.

    Without BPF (no privilege, or `use_bpf` False) it reads /proc alone.
    """

    def __init__(self, *, use_bpf: bool = True) -> None:
        self._cache = Cache()
        self._store = SymbolStore(self._cache)
        self._observer: BpfObserver | None = None
        self.why_no_bpf = "" if use_bpf else "not asked for"
        if use_bpf:
            self._open_bpf()

    def _open_bpf(self) -> None:
        from ckpt.host.bpf import BpfObserver

        try:
            self._observer = BpfObserver()
            self._observer.prepare_beside("tasks")
        except HostError as error:
            self.why_no_bpf = str(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload the BPF programs, forget the symbols."""
        if self._observer is not None:
            self._observer.close()
            self._observer = None
        self._cache.close()

    def inspect(self, pid: int) -> Inspection:
        """Look once at a process with its children, or at one thread.

        `pid`: a process, or a thread that is not its leader. Takes milliseconds.

        Raises:
            CaptureError: there is no such task, or it ended while it was looked at.
        """
        tgid = find_process(pid)
        try:
            return self._inspect(pid, tgid)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise CaptureError("ended while it was looked at", where=f"process {pid}") from error

    def _inspect(self, pid: int, tgid: int) -> Inspection:
        look = self._look(tgid)
        if pid not in look.view.threads:
            raise CaptureError("ended while it was looked at", where=f"thread {pid}")
        notes = [f"no BPF: {self.why_no_bpf}"] if self.why_no_bpf else []
        tree, below = self._tree(look) if pid == tgid else (None, [])
        reports = [self._report(look, None if pid == tgid else pid)]
        if len(below) >= MAX_SCREENS:
            notes.append(f"{len(below)} processes below it are not shown in full: inspect them")
        else:
            for child in below:
                # What ends meanwhile is no longer part of the tree.
                with contextlib.suppress(CaptureError, FileNotFoundError, ProcessLookupError):
                    reports.append(self._report(self._look(child, look.peers), None))
        return Inspection(
            source=look.source,
            pid=pid,
            observed_ns=look.view.observed_ns,
            tree=tree,
            processes=tuple(reports),
            notes=tuple(map(escape, notes)),
        )

    def _tree(self, look: _Look) -> tuple[TreeNode | None, list[int]]:
        family = Family(look.peers)
        below = family.descendants(look.view.tgid)
        return (family.build(look.view.tgid), below) if below else (None, [])

    def _look(self, tgid: int, peers: Sequence[PeerTask] | None = None) -> _Look:
        if self._observer is not None:
            observer = self._observer
            places = observer.read_places(tgid)
            if places:
                view = observer.observe_threads(tgid)
                return _Look("bpf", view, places, peers or observer.read_peers(), ())
            if not os.path.exists(f"/proc/{tgid}"):
                raise CaptureError("ended while it was looked at", where=f"process {tgid}")
        return self._look_by_proc(tgid, peers)

    def _look_by_proc(self, tgid: int, peers: Sequence[PeerTask] | None) -> _Look:
        from ckpt.debug.bare_view import read_bare_view
        from ckpt.debug.proc_places import read_places

        gaps = [_WITHOUT_BPF]
        if self._observer is not None:
            gaps.append("BPF iterators do not show this process")
        try:
            view = _observe_by_proc(tgid)
        except PermissionError:
            gaps.append(f"registers, limits, timers: {_not_ours()}")
            view = read_bare_view(tgid)
        places = {place.tid: place for place in read_places(tgid, view.threads.values())}
        if peers is None:
            own = [_peer_of(thread, places.get(thread.tid)) for thread in view.threads.values()]
            peers = list(read_peers(own))
        return _Look("proc", view, places, peers, tuple(gaps))

    def _report(self, look: _Look, only: int | None) -> ProcessReport:
        view, gaps = look.view, list(look.gaps)
        alive = [tid for tid, thread in view.threads.items() if not thread.exit_state]
        through = view.tgid if view.tgid in alive else next(iter(alive), view.tgid)
        with contextlib.ExitStack() as closing:
            space = self._open_space(look, through, gaps) if alive else None
            if space is not None:
                closing.enter_context(space)
            names = closing.enter_context(FdNames(view.tgid, through))
            known = {peer.tid: peer for peer in look.peers if peer.tid}
            around = Around(
                space=space,
                futexes=_find_futexes(look, space),
                name_fd=names.name,
                name_task=lambda tid: _name_task(tid, known),
                leader=view.threads.get(view.tgid),
                instructions={},
                observed_ns=view.observed_ns,
            )
            threads = _report_threads(look, around, only)
            surrounding = Surrounding(look.peers, space, around.name_task, look.source == "bpf")
            return report_process(view, threads, surrounding, gaps)

    def _open_space(self, look: _Look, through: int, gaps: list[str]) -> LiveSpace | None:
        """Open memory, unless that could make us wait for what the target waits for."""
        view = look.view
        if (view.threads[through].flags or 0) & PF_KTHREAD:
            return None
        stuck = self._find_stuck_lock(look)
        if stuck:
            gaps.append(stuck)
            return None
        try:
            careful = any(place.state & TASK_UNINTERRUPTIBLE for place in look.places.values())
            return LiveSpace(view.tgid, through, self._store, careful=careful)
        except PermissionError:
            gaps.append(f"memory and symbols: {_not_ours()}")
            return None

    def _find_stuck_lock(self, look: _Look) -> str:
        """Return why memory must not be touched; empty: it may.

        A writer of the mm's layout that never finishes hangs every reader, `ps` and us included.
        """
        if any(thread.in_execve for thread in look.view.threads.values()):
            return "memory: a thread is in execve, which keeps others out"
        places = look.places
        for attempt in range(_LOOKS_AT_LOCK):
            if not any(place.is_mmap_contended for place in places.values()):
                return ""
            if self._observer is None or attempt == _LOOKS_AT_LOCK - 1:
                break
            time.sleep(_LOOK_EVERY_S)
            places = self._observer.read_places(look.view.tgid)
        owner = next((place.mmap_lock_owner for place in places.values()), 0)
        who = f"held for writing by thread {owner}" if owner else "waited for by a writer"
        return f"memory: its mmap_lock stays {who}; not read, so as not to hang as well"


def inspect(pid: int, *, use_bpf: bool = True) -> Inspection:
    """Look once at a process with its children, or at one thread; see `Inspector.inspect`.

    Raises:
        CaptureError: there is no such task, or it ended while it was looked at.
    """
    with Inspector(use_bpf=use_bpf) as inspector:
        return inspector.inspect(pid)


def find_process(pid: int) -> int:
    """Return the process that a process or thread number belongs to.

    Raises:
        CaptureError: there is no such task.
    """
    try:
        return int(parse_fields(read_small(f"/proc/{pid}/status"))[b"Tgid"])
    except (FileNotFoundError, ProcessLookupError) as error:
        raise CaptureError("no such process or thread", where=f"pid {pid}") from error


def _not_ours() -> str:
    return "not ours to look at" + (" (run as root)" if os.geteuid() else "")


def _observe_by_proc(tgid: int) -> KernelView:
    """Read what /proc shows of a running process. Raises PermissionError when it is not ours."""
    from ckpt.debug.bare_view import read_bare_view
    from ckpt.host.proc_view import ProcObserver

    try:
        pidfd = os.pidfd_open(tgid)
    except OSError:
        return read_bare_view(tgid)
    try:
        return ProcObserver(pidfd, lambda: ()).observe_threads(tgid)
    finally:
        os.close(pidfd)


def _report_threads(look: _Look, around: Around, only: int | None) -> list[ThreadReport]:
    reports = []
    for number, (tid, view) in enumerate(look.view.threads.items()):
        if only not in (None, tid):
            continue
        with contextlib.ExitStack() as closing:
            own = around
            if around.leader is not None and view.files not in (around.leader.files, None):
                names = closing.enter_context(FdNames(view.tgid, tid))
                own = around._replace(name_fd=names.name)
            inspector = ThreadInspector(view, look.places.get(tid), own)
            reports.append(inspector.report(with_stack=only == tid or number < MAX_STACKS))
    return reports


def _find_futexes(look: _Look, space: LiveSpace | None) -> Futexes | None:
    if space is None:
        return None
    threads = look.view.threads.values()
    restarted = {
        thread.tid: thread.restart.uaddr
        for thread in threads
        if isinstance(thread.restart, FutexRestart)
    }
    mm = look.view.mm.mm if look.view.mm is not None else None
    if look.source != "bpf":
        mm = NO_OBJECT
    return Futexes(space, mm, look.view.tgid, look.peers, restarted, _find_numbers(look.view))


def _find_numbers(view: KernelView) -> dict[int, int] | None:
    """Return our tid of each thread by that in its own pid namespace; None: it is ours as well."""
    own = os.stat("/proc/self/ns/pid").st_ino
    if all(thread.pid_ns in (own, None) for thread in view.threads.values()):
        return None
    numbers = {}
    for tid in view.threads:
        with contextlib.suppress(OSError, KeyError):
            fields = parse_fields(read_small(f"/proc/{view.tgid}/task/{tid}/status"))
            numbers[int(fields[b"NSpid"].split()[-1])] = tid
    return numbers


def _name_task(tid: int, known: dict[int, PeerTask]) -> Who:
    peer = known.get(tid)
    if peer is not None:
        return Who(tid, peer.tgid, escape(peer.comm))
    return Who(tid, 0, name_command(tid))


def _peer_of(view: ThreadView, place: ThreadPlace | None) -> PeerTask:
    """Make of a thread seen in /proc what the iterator over all tasks would have given."""
    regs = None if place is None else place.regs
    nr = -1 if regs is None or not regs.rip else regs.orig_rax & 0xFFFF_FFFF
    args = (0,) * 6
    if regs is not None and place is not None:
        args = (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9)
        if place.is_i386_call:
            args = (regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp)
    return PeerTask(
        tid=view.tid,
        tgid=view.tgid,
        parent_tgid=view.parent_tgid,
        tracer_tid=view.tracer_tid,
        comm=view.comm,
        state=view.state,
        exit_state=view.exit_state,
        is_kernel_thread=bool((view.flags or 0) & PF_KTHREAD),
        on_cpu=place is not None and place.on_cpu,
        mm=NO_OBJECT,
        files=NO_OBJECT,
        fs=NO_OBJECT,
        sighand=NO_OBJECT,
        call_nr=nr if nr < 1 << 31 else -1,
        is_i386_call=place is not None and place.is_i386_call,
        call_args=args,
    )

"""What every object module stands on: records, the process being looked at, the plan's builder.

An object module is one file in `ckpt/objects/` that defines any of

    RECORDS: tuple[type[Record], ...]
    def survey(process: Process) -> Iterable[Finding]          # target runs; refuse early
    def capture(process: Process) -> object                    # target frozen; be quick, stay raw
    def finish(raw, process: Process) -> Iterable[Record]      # may run after the thaw
    def plan(records: Records, build: Builder) -> None         # pure: steps from records and facts
    def reserved_fds(records: Records) -> Iterable[int]        # numbers the target's table uses

and is named in `ckpt.objects.MODULES`. Modules know each other's records by objref only, never by
import; what all of them must know (which threads and processes there are) stands here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, NewType, Protocol, TypeVar

import msgspec

from ckpt.errors import Finding, RefusedError
from ckpt.host.facts import HostFacts as HostFacts
from ckpt.objects.steps import Action, Call, Executor, Step, Token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckpt.host.kernel_view import (
        FileView,
        KernelId,
        MmView,
        ProcessView,
        ThreadView,
        VmaView,
    )
    from ckpt.host.observer import Observer, TaskWatch
    from ckpt.host.sleepers import Remainder
    from ckpt.objects.maps_text import MapsLine

Objref = NewType("Objref", int)
"""Names one kernel object of the image; 0 is none."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="t"):
    """Plain facts about one kernel object. Subclasses set `tag="name"` and may name VOLATILE.

    `VOLATILE` lists fields that differ between a process and its restored self by nature;
    `restore --verify` does not compare them.
    """


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a record (one area, one descriptor). Same strictness, no tag of its own."""


class ProcessRecord(Record, tag="process", frozen=True):
    """One process: its threads, and which shared objects it uses."""

    tgid: int
    tids: list[int]
    """Every living thread, the leader first when it lives, in the kernel's order."""
    leader_alive: bool
    stopped_by: int
    """The signal that had stopped the process as a whole (SIGSTOP, ...), else 0."""
    mm: int
    files: int
    fs: int
    sighand: int


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asked of a snapshot or a restore."""

    leave_running: bool = False
    leave_stopped: bool = False
    no_bpf: bool = False
    timeout_s: float = 30.0
    deadline_s: float | None = None
    timens: bool = True
    stopped: bool = False
    detach: bool = False
    """We end before the restored process does, and it must not notice."""
    verify: bool = False
    trust_image: bool = False
    allow_changed_files: bool = False
    """Restore although a regular file was replaced, shrunk or modified since the snapshot."""


class Identities:
    """Turns kernel identities into objrefs: the same object has one number. linux-cr's objhash."""

    def __init__(self) -> None:
        self._refs: dict[tuple[str, object], Objref] = {}

    def ref(self, kind: str, identity: object) -> Objref:
        """Return the objref of `identity` among objects of `kind`, giving it one if new."""
        return self._refs.setdefault((kind, identity), Objref(len(self._refs) + 1))

    def is_known(self, kind: str, identity: object) -> bool:
        """Tell whether `identity` already has an objref."""
        return (kind, identity) in self._refs


class StoppedThread(Protocol):
    """One thread in a ptrace stop: what `ckpt.freeze` knows of it."""

    tid: int
    regs: Any
    """`ckpt.arch.x86_64.regs.X86Regs` as they were at the stop, before anything was rewound."""


class PageSink(Protocol):
    """Where captured pages go. Implemented by the image writer; see `ckpt.image.writer`."""

    def store(self, ref: int, source_fd: int, extents: Any, tid: int = 0) -> None:
        """Copy `extents` (array('Q') of address, length pairs) of `source_fd` under objref.

        `tid`: whose memory `source_fd` is, if it is memory.
        """


class Process:
    """One process under observation, first running (`survey`), then frozen (`capture`).

    Reads go through a living thread: a leader that has exited shows nothing of mm and files.
    """

    def __init__(self, tgid: int, options: Options, identities: Identities) -> None:
        self.tgid = tgid
        self.options = options
        self.identities = identities
        self.tids: list[int] = []
        self.living_tid = tgid
        self.leader_alive = True
        self.pidfd = -1
        self.is_frozen = False
        self._frozen_maps: list[MapsLine] | None = None
        self.stopped_by = 0
        self.stops: dict[int, StoppedThread] = {}
        self.findings: list[Finding] = []
        self.observer: Observer | None = None
        """Where the views come from; None: no source is open."""
        self.task_events: TaskWatch | None = None
        """Forks, execs and exits since just before the freeze; None without BPF."""
        self.sink: PageSink | None = None
        # Views: None when that source was not available.
        self.thread_views: dict[int, ThreadView] = {}
        self.process_view: ProcessView | None = None
        self.mm_view: MmView | None = None
        self.file_views: dict[int, FileView] = {}
        self.ready_watches: dict[KernelId, frozenset[tuple[int, KernelId]]] = {}
        """By `FileView.file` of an epoll instance: (number, file) of the items it has to report."""
        self.before_views: dict[int, ThreadView] = {}
        """Thread views from just before the freeze: deadlines of blocked calls."""
        self.remainders: dict[int, Remainder] = {}
        """What stood where sleeping threads' calls would store the remaining time."""
        self.frozen_ns = 0
        """CLOCK_MONOTONIC of ours when the last thread had stopped."""
        self.clock_offsets_ns: dict[int, int] = {}
        """CLOCK_* -> that clock minus CLOCK_MONOTONIC, ours, at the freeze."""

    def read_areas(self) -> list[VmaView] | None:
        """Return the areas as BPF sees them; None without BPF."""
        if self.observer is None:
            return None
        return self.observer.observe_areas(self.living_tid)

    def read_maps(self) -> list[MapsLine]:
        """Return the areas as /proc/PID/maps shows them; read once while nothing can change."""
        if self._frozen_maps is not None:
            return self._frozen_maps
        from ckpt.objects.maps_text import parse_maps

        lines = parse_maps(self.read("maps"))
        if self.is_frozen:
            self._frozen_maps = lines
        return lines

    def path(self, name: str, tid: int | None = None) -> str:
        """Return the path of `name` below the /proc folder of a living thread, or of `tid`."""
        return f"/proc/{self.tgid}/task/{tid or self.living_tid}/{name}"

    def read(self, name: str, tid: int | None = None) -> bytes:
        """Return the whole content of a /proc file of a living thread, or of `tid`."""
        fd = os.open(self.path(name, tid), os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(fd, 1 << 20):
                chunks.append(chunk)
            return b"".join(chunks)
        finally:
            os.close(fd)

    def clock_ns(self, clockid: int, monotonic_ns: int) -> int:
        """Return what our clock `clockid` showed at a CLOCK_MONOTONIC time near the freeze."""
        return monotonic_ns + self.clock_offsets_ns.get(clockid, 0)

    def wait_deadline_ns(self, tid: int) -> int | None:
        """Return when the finite wait that a thread was in ends, in our CLOCK_MONOTONIC.

        None: it had no limit, or was not seen (no BPF). A thread that made another call between
        the look and the stop is told by its registers: that deadline is not its.
        """
        before = self.before_views.get(tid)
        if before is None or before.blocked_timer is None:
            return None
        stop = self.stops.get(tid)
        if stop is None or not _is_same_call(before, self.thread_views.get(tid), stop):
            return None
        offset = self.clock_offsets_ns.get(before.blocked_timer.clockid, 0)
        return before.blocked_timer.expires_ns - offset

    def cpu_clock_ns(self, clockid: int, tid: int) -> int:
        """Return what CPU clock `clockid`, as thread `tid` names it, shows now."""
        return time.clock_gettime_ns(absolute_cpu_clock(clockid, self.tgid, tid))

    def getfd(self, target_fd: int) -> int:
        """Return our own copy of the target's descriptor (pidfd_getfd); the caller closes it."""
        from ckpt.host.syscalls import pidfd_getfd

        return pidfd_getfd(self.pidfd, target_fd)

    def refuse(self, where: str, what: str, hint: str = "") -> None:
        """Note a blocker found while frozen; the snapshot thaws and reports all of them."""
        self.findings.append(Finding(where, what, hint))

    def warn(self, where: str, what: str, hint: str = "") -> None:
        """Note something that will differ after a restore."""
        self.findings.append(Finding(where, what, hint, blocker=False))


def _is_same_call(before: ThreadView, now: ThreadView | None, stop: StoppedThread) -> bool:
    """Tell whether a thread did not wake up between the look and the stop.

    The stop itself is one switch, a lock on the way another. A thread that switched more often has
    been round and waits anew: its wait has just begun, and its full timeout is as good.
    """
    if now is not None and now is not before and now.nvcsw - before.nvcsw > 2:
        return False
    regs = before.regs
    return regs is not None and (regs.orig_ax, regs.ip, regs.sp) == (
        stop.regs.orig_rax,
        stop.regs.rip,
        stop.regs.rsp,
    )


def absolute_cpu_clock(clockid: int, tgid: int, tid: int) -> int:
    """Return the clock id by which anybody may read a CPU clock that a thread calls `clockid`.

    Source: `include/linux/posix-timers_types.h`: ~pid << 3 | per-thread 4 | which clock.
    """
    if clockid == time.CLOCK_PROCESS_CPUTIME_ID:
        return ~tgid << 3 | 2
    if clockid == time.CLOCK_THREAD_CPUTIME_ID:
        return ~tid << 3 | 6
    if clockid < 0 and clockid >> 3 == ~0:
        return ~(tid if clockid & 4 else tgid) << 3 | clockid & 7
    return clockid


R = TypeVar("R", bound=Record)


class Records:
    """The records of one image, by type."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.all = tuple(records)
        self._by_type: dict[type[Record], list[Record]] = {}
        for record in self.all:
            self._by_type.setdefault(type(record), []).append(record)

    def of(self, record_type: type[R]) -> Sequence[R]:
        """Return every record of exactly this type, in the image's order."""
        return self._by_type.get(record_type, [])  # type: ignore[return-value]

    @property
    def processes(self) -> Sequence[ProcessRecord]:
        """Every process of the image; the first is the root."""
        return self.of(ProcessRecord)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.all)


class Builder:
    """Collects the steps, refusals and warnings of a plan."""

    def __init__(self, host: HostFacts, options: Options, socket_fd: int) -> None:
        self.host = host
        self.options = options
        self.socket_fd = socket_fd
        """Number of the task's end of the descriptor socket, free in the target's table."""
        self.steps: list[Step] = []
        self.findings: list[Finding] = []
        self.final_rips: dict[int, int] = {}
        """tid -> where a thread goes on that was inside a restartable sequence (its abort)."""

    def tape(
        self,
        tid: int,
        calls: Iterable[Call],
        why: str,
        *,
        needs: Iterable[Token] = (),
        after: Iterable[Token] = (),
        provides: Iterable[Token] = (),
    ) -> None:
        """Add calls that thread `tid` makes itself, in this order."""
        self.steps.append(
            Step(Executor.TAPE, tid, why, tuple(calls), None, *map(tuple, (needs, after, provides)))
        )

    def ptrace(
        self,
        tid: int,
        action: Action,
        why: str,
        *,
        needs: Iterable[Token] = (),
        after: Iterable[Token] = (),
        provides: Iterable[Token] = (),
    ) -> None:
        """Add something done to stopped thread `tid` from outside."""
        self.steps.append(
            Step(Executor.PTRACE, tid, why, (), action, *map(tuple, (needs, after, provides)))
        )

    def host_step(
        self,
        action: Action,
        why: str,
        *,
        needs: Iterable[Token] = (),
        after: Iterable[Token] = (),
        provides: Iterable[Token] = (),
    ) -> None:
        """Add something that the restorer does by itself (open a file, make a pipe)."""
        self.steps.append(
            Step(Executor.HOST, 0, why, (), action, *map(tuple, (needs, after, provides)))
        )

    def refuse(self, where: str, what: str, hint: str = "") -> None:
        """Note a reason why this image cannot be restored here; all are reported together."""
        self.findings.append(Finding(where, what, hint))

    def warn(self, where: str, what: str, hint: str = "") -> None:
        """Note something that will differ after the restore."""
        self.findings.append(Finding(where, what, hint, blocker=False))


class Restorer(Protocol):
    """What an action may use while it is performed. Implemented by `ckpt.restore`."""

    fds: dict[str, int]
    """Host descriptors made by actions, by the key that the plan gave them; closed at the end."""

    undo: list[Callable[[], object]]
    """What to take back if the restore fails, the last one first; actions append to it."""

    image_fd: int
    """The image, for reading at the offsets that `page_extents` names."""

    def proc_path(self, tid: int, name: str) -> str:
        """Return the path of a /proc file of a restored thread."""

    root_tid: int
    """The root task, whose end of the socket receives descriptors."""

    def send_fds(self, fds: Sequence[int]) -> None:
        """Send one SCM_RIGHTS message of at most 253 descriptors to the root task."""

    def close_fd(self, key: str) -> None:
        """Close and forget our descriptor of this key."""

    def page_extents(self, ref: int) -> tuple[Any, int]:
        """Return (array('Q') of address, length pairs; file offset of the first byte)."""

    def play(self, tid: int, calls: Iterable[Call]) -> list[int]:
        """Play calls on a stopped thread at once and return their results."""

    def read_maps(self, tid: int) -> list[MapsLine]:
        """Return the areas that a restored task has now."""

    def find_hole(self, size: int) -> int:
        """Return an address where neither the target nor the task has anything."""

    def lead_ns(self) -> int:
        """Return how long the rest of the restore will about take: the clocks start that early."""

    def expect_clock(self, monotonic_ns: int) -> None:
        """Let nothing run before the target's CLOCK_MONOTONIC reads `monotonic_ns`."""

    def lag_ns(self) -> int:
        """Return what the target's clock lags behind the moment of the freeze; 0 if it does not."""

    def rearm(self, tid: int, call: Any, time_ns: int, rmtp: int = 0) -> None:
        """Make `call` (`ckpt.arch.x86_64.rearm.Rearm`) with a stop pending; keep its result.

        `time_ns` is what `Rearm.fill` wants; the content at `rmtp` (0: nowhere) is kept.
        """

    def park(self, tid: int, regs: Any) -> None:
        """Load final registers into a thread, in the trap."""

    def step_calls(self, tid: int, calls: Iterable[Call], why: str) -> None:
        """Make calls of `tid` from stop to stop: no trap instruction follows them."""

    def unmap_tape(self, tid: int) -> None:
        """Unmap the tape region by one stepped call of `tid`."""

    def end_thread(self, tid: int) -> None:
        """Let `tid` exit while other threads of its process stay."""


def raise_blockers(findings: Iterable[Finding], what: str) -> None:
    """Raise RefusedError with all blockers among `findings`, if there are any."""
    blockers = [finding for finding in findings if finding.blocker]
    if blockers:
        raise RefusedError(what, blockers)

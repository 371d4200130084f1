"""The views without BPF: /proc, and read-only calls on threads that are stopped.

While the target runs, `ProcObserver` reads /proc and nothing else. Once its threads are stopped it
lets each answer what only a thread can be asked about itself (`proc_asked`, by `remote_call`).
What neither shows is None in the views and named in `gaps`, each with what it costs.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ckpt.errors import CaptureError
from ckpt.host.kernel_view import FileView, KernelId, KernelView, TaskEvent, VmaView
from ckpt.host.proc_areas import parse_areas, read_smaps
from ckpt.host.proc_build import build_view
from ckpt.host.proc_files import FileReader
from ckpt.host.proc_reading import Look, Reading, read_tasks
from ckpt.host.proc_tasks import parse_task, read_optional, read_task
from ckpt.host.remote_call import FROZEN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

GAPS: Final = (
    "calls in the target: each thread answered a few questions by system calls of its own; had "
    "ckpt-bpf been killed (SIGKILL) between the first and the last of them, that thread would have "
    "gone on with the wrong registers",
    "restart_block: rebuilt from the call's arguments; sleeps on a CPU clock, and sleeps that an "
    "earlier stop had interrupted already, give EINTR after a restore",
    "blocked_timer: deadlines of blocked calls are exact only where /proc/timer_list has them, "
    "else estimated, late by what the host took from this machine meanwhile",
    "compat_robust_list: a list that 32-bit code has registered is lost in a restore",
    "ready_watches: an epoll instance does not know after a restore which edges it had reported",
    "f_count: descriptors that other processes or messages hold as well are not noticed",
    "next_posix_timer_id: the next timer that the program makes may get another id",
    "posix_timers.overrun: expiries counted for a signal that still waits are counted anew",
    "posix_timers: a timer set to a date, where /proc/timer_list cannot be read, comes back with "
    "the time that remained",
    "pkey_allocation_map: keys that are allocated and protect nothing are free after a restore",
    "has_io_uring, has_sysvsem_undo: a ring without a descriptor, and semaphore operations to "
    "undo, are not refused",
    "in_execve, has_vfork_done: a thread in the middle of vfork is only seen as one that does not "
    "stop",
)
"""Fields that no read-only call shows, and the price."""


class ProcObserver:
    """The source of views without BPF; implements `kernel_view.Observer`.

    `stopped` returns the threads that are in the PTRACE_EVENT_STOP trap and traced by us now; with
    none, only /proc is read. `options` are the PTRACE_O_* that those threads have, `frozen_ns`
    returns the moment (CLOCK_MONOTONIC) for which remaining times are given.
    """

    source = "syscalls"

    def __init__(
        self,
        pidfd: int,
        stopped: Callable[[], Collection[int]],
        options: int = FROZEN_OPTIONS,
        frozen_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._pidfd = pidfd
        self._stopped = stopped
        self._options = options
        self._frozen_ns = frozen_ns
        self._ids: dict[object, KernelId] = {}
        self._looks: dict[int, Look] = {}

    def identify(self, what: object) -> KernelId:
        """Return the number that stands for a kernel object in this observer."""
        return self._ids.setdefault(what, KernelId(len(self._ids) + 1))

    def read_threads(self, tgid: int) -> RawThreads:
        """Read all threads of the process, its exited leader included; ask those stopped.

        Raises:
            CaptureError: there is no such process, or it ended meanwhile.
        """
        tasks = {task.tid: task for task in read_tasks(tgid)}
        if not tasks:
            raise CaptureError("no such process", where=f"process {tgid}")
        reading = Reading(tgid, tasks, self._pidfd, self._options, self._frozen_ns())
        stopped = self._stopped()
        stops = [tid for tid in reading.living if tid in stopped]
        if stops:
            reading.ask(stops, self._looks)
        else:
            self._looks = reading.look()
        return RawThreads(self, reading)

    def read_files(self, tid: int) -> RawFileList:
        """Read the descriptor table of the living thread ``tid``."""
        tgid = parse_task(read_task(tid, tid)).number(b"Tgid")
        return RawFileList(FileReader(tgid, tid, self._pidfd).read(self.identify))

    def read_areas(self, tid: int) -> RawAreaTexts:
        """Read the areas of the living thread ``tid``."""
        return RawAreaTexts(self, *read_smaps(tid, tid))

    def observe_threads(self, tgid: int) -> KernelView:
        """``read_threads(tgid).decode()``."""
        return self.read_threads(tgid).decode()

    def observe_files(self, tid: int) -> list[FileView]:
        """``read_files(tid).decode()``."""
        return self.read_files(tid).decode()

    def observe_areas(self, tid: int) -> list[VmaView]:
        """``read_areas(tid).decode()``."""
        return self.read_areas(tid).decode()

    def find_memory_sharers(self, tgid: int, mm: KernelId) -> list[tuple[int, str]]:
        """Return nothing: only BPF tells two memories apart."""
        del tgid, mm
        return []

    def read_stack(self, tid: int) -> tuple[str, ...]:
        """Return the functions on the kernel stack, or only the one that it sleeps in."""
        lines = read_optional(f"/proc/{tid}/stack").splitlines()
        if not lines:
            where = read_optional(f"/proc/{tid}/wchan").decode("ascii", "replace")
            return (where,) if where not in ("", "0") else ()
        return tuple(line.split()[-1].partition(b"+")[0].decode() for line in lines if line.strip())

    def read_ready_watches(self, tid: int) -> dict[KernelId, frozenset[tuple[int, KernelId]]]:
        """Return nothing: what an epoll instance has to report cannot be seen."""
        del tid
        return {}

    @contextmanager
    def watch_tasks(self, tgid: int, *, restarts: bool = False) -> Iterator[BlindWatch]:
        """Watch nothing: forks, execs and exits between two looks cannot be seen."""
        del tgid, restarts
        yield BlindWatch()


class BlindWatch:
    """A watch that always says that it has missed something."""

    lost = 1

    def drain(self) -> list[TaskEvent]:
        """Return no events."""
        return []


class RawThreads:
    """What was read of all threads."""

    def __init__(self, observer: ProcObserver, reading: Reading) -> None:
        self._observer = observer
        self._reading = reading

    def decode(self) -> KernelView:
        """Turn it into views."""
        gaps = GAPS if self._reading.stops else ()
        return build_view(self._reading, self._observer.identify, gaps)


class RawFileList:
    """Descriptors; kcmp and fcntl have their say while they are read."""

    def __init__(self, views: list[FileView]) -> None:
        self._views = views

    def decode(self) -> list[FileView]:
        """Return the views, ordered by fd."""
        return self._views


class RawAreaTexts:
    """smaps and numa_maps of one thread."""

    def __init__(self, observer: ProcObserver, smaps: bytes, numa_maps: bytes) -> None:
        self._observer = observer
        self._texts = smaps, numa_maps

    def decode(self) -> list[VmaView]:
        """Return the views, ordered by address."""
        return list(parse_areas(*self._texts, self._observer.identify))

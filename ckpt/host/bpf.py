"""The BPF source of kernel views: ``with open_observer() as observer: ...``.

Loads programs and turns what the iterators write into views. ``read_*`` only copies bytes out of
the kernel and is for the frozen time; ``decode`` of what it returns is for afterwards. Only one
thread may read through an observer. Import this module only where BPF is wanted.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from ckpt.errors import CaptureError, HostError
from ckpt.host.bpf_cache import Cache
from ckpt.host.bpf_decode import decode_tasks
from ckpt.host.bpf_decode_thread import Surroundings
from ckpt.host.bpf_events import TaskEvents
from ckpt.host.bpf_load import Libbpf, Loaded, check_privileges, load_bytecode
from ckpt.host.bpf_records import TIMERS_RECORD
from ckpt.host.bpf_sort import find_process
from ckpt.host.bpf_store import SNAPSHOT_PROGRAMS, load_programs
from ckpt.host.kallsyms import load_symbols
from ckpt.host.kernel_view import NO_OBJECT, FileView, KernelId, KernelView, VmaView

if TYPE_CHECKING:
    from ckpt.host.surroundings import PeerTask, ThreadPlace

_CLOCK_MONOTONIC_COARSE: Final = 6
"""include/uapi/linux/time.h; its resolution is the kernel's tick."""
# bpf/timers.h
_TIMERS_A_PASS: Final = 8


class BpfObserver:
    """An open BPF source; implements ``observer.Observer``. Close it (or use ``with``)."""

    source = "bpf"

    def __init__(self, cache: Cache | None = None) -> None:
        check_privileges("use --no-bpf")
        with cache or Cache() as opened:
            self._bytecode = load_programs(opened)
            self.symbols = load_symbols(opened)
        self._lib = Libbpf()
        self._loaded: dict[str, Loaded] = {}
        self._locks = {name: threading.Lock() for name in self._bytecode}
        self._loader: threading.Thread | None = None
        self._ids: dict[int, KernelId] = {0: NO_OBJECT}
        gaps = {gap for bytecode in self._bytecode.values() for gap in bytecode.gaps}
        self.gaps = tuple(sorted(gaps | set(self._missing_symbols())))
        """Struct members and functions that this kernel lacks."""

    def _missing_symbols(self) -> Iterable[str]:
        for bytecode in self._bytecode.values():
            for program in bytecode.programs:
                for _, name in program.symbols:
                    if self.symbols.address_of(name) is None:
                        yield f"{name}()"

    def __enter__(self) -> BpfObserver:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload the programs."""
        if self._loader is not None:
            self._loader.join()
        while self._loaded:
            self._loaded.popitem()[1].close()

    def prepare(self, *names: str) -> None:
        """Load programs now, so that a later ``read_*`` only reads; default: a snapshot's."""
        for name in names or SNAPSHOT_PROGRAMS:
            self._load(name)

    def prepare_beside(self, *names: str) -> None:
        """Have programs loaded by a thread: most of it is the verifier's work, on one CPU.

        Default: what a snapshot needs. The thread has ended when the observer is closed.
        """
        self._loader = threading.Thread(
            target=self._prepare_quietly, args=names, name="bpf-load", daemon=True
        )
        self._loader.start()

    def _prepare_quietly(self, *names: str) -> None:
        # Whoever needs the program loads it again and gets the error.
        with contextlib.suppress(HostError):
            self.prepare(*names)

    def _load(self, name: str) -> Loaded:
        with self._locks[name]:
            if name not in self._loaded:
                self._loaded[name] = load_bytecode(self._lib, self._bytecode[name], self.symbols)
            return self._loaded[name]

    def _read(self, name: str, target: str, *, tgid: int = 0, tid: int = 0) -> bytes:
        _, fd = self._load(name).programs[target]
        return self._lib.read_iterator(fd, tgid=tgid, tid=tid)

    def identify(self, address: int) -> KernelId:
        """Return the number that stands for a kernel object in this observer."""
        known = self._ids.get(address)
        if known is None:
            known = self._ids[address] = KernelId(len(self._ids))
        return known

    def read_threads(self, tgid: int) -> RawTasks:
        """Read all threads of the process ``tgid``, its exited leader included.

        Raises CaptureError when there is no such process.
        """
        tasks = self._read("tasks", "task", tgid=tgid)
        clocks = (time.clock_gettime_ns(time.CLOCK_REALTIME), time.clock_gettime_ns(time.CLOCK_TAI))
        if not tasks:
            raise CaptureError("no such process", where=f"process {tgid}")
        process = find_process(tasks)
        timers = None
        if process is not None:
            timers = self._read_timers(process.leader_tid) if process.has_posix_timers else b""
        return RawTasks(self, tasks, timers, clocks)

    def _read_timers(self, tid: int) -> bytes:
        """Read all POSIX timers, a pass after the other, each from where the last one ended."""
        loaded, passes, after = self._load("timers"), [], bytes(8)
        while True:
            self._lib.update_element(loaded.maps["after"], bytes(4), after)
            part = self._read("timers", "task", tid=tid)
            passes.append(part)
            if len(part) < _TIMERS_A_PASS * TIMERS_RECORD.size:
                return b"".join(passes)
            after = part[-TIMERS_RECORD.size :][:8]

    def read_files(self, tid: int) -> RawFileTable:
        """Read the descriptor table of the living thread ``tid``."""
        return RawFileTable(self, self._read("files", "task_file", tid=tid))

    def read_ready_watches(self, tid: int) -> dict[KernelId, frozenset[tuple[int, KernelId]]]:
        """Return what the epoll instances of the living thread ``tid`` have to report.

        By the instance's file: (number, file) of each item on its ready list. An instance with
        more items there than fit, or that cannot be looked into, is not in the result.
        """
        from ckpt.host.bpf_decode_files import decode_ready

        return decode_ready(self._read("ready", "task_file", tid=tid), self.identify)

    def read_areas(self, tid: int) -> RawAreaList:
        """Read the areas of the living thread ``tid``."""
        _, fd = self._load("areas").programs["task_vma"]
        parts = list(_until_repeated(self._lib.read_parts(fd, tid=tid)))
        return RawAreaList(self, b"".join(parts))

    def observe_threads(self, tgid: int) -> KernelView:
        """``read_threads(tgid).decode()``."""
        return self.read_threads(tgid).decode()

    def observe_files(self, tid: int) -> list[FileView]:
        """``read_files(tid).decode()``."""
        return self.read_files(tid).decode()

    def observe_areas(self, tid: int) -> list[VmaView]:
        """``read_areas(tid).decode()``."""
        return self.read_areas(tid).decode()

    def read_stack(self, tid: int) -> tuple[str, ...]:
        """Return the functions on the kernel stack of ``tid``, innermost first (for messages)."""
        places = self._decode_places(self._read("stack", "task", tid=tid))
        return tuple(
            place.partition("+")[0] for one in places.values() for place in one.kernel_stack
        )

    def read_places(self, tgid: int) -> dict[int, ThreadPlace]:
        """Return where every thread of the process ``tgid`` stands, by tid; empty: no such one.

        One pass; nothing is stopped. Registers and stacks are those of a thread that does not run.
        """
        os.sched_yield()  # brings our own scheduler figures up to date, which are the clock
        yielded_ns = time.monotonic_ns()
        return self._decode_places(self._read("stack", "task", tgid=tgid), yielded_ns)

    def _decode_places(self, buffer: bytes, yielded_ns: int = 0) -> dict[int, ThreadPlace]:
        from ckpt.host.surroundings import decode_places

        return {place.tid: place for place in decode_places(buffer, self.symbols, yielded_ns)}

    def read_peers(self) -> list[PeerTask]:
        """Return every task of our pid namespace, kernel threads included; nothing is stopped."""
        from ckpt.host.surroundings import decode_peers

        return list(decode_peers(self._read("peers", "task"), self.identify))

    def find_memory_sharers(self, tgid: int, mm: KernelId) -> list[tuple[int, str]]:
        """Return (pid, name) of the other processes that have this memory."""
        peers = [peer for peer in self.read_peers() if peer.mm == mm and peer.tgid != tgid]
        return sorted({peer.tgid: peer.comm for peer in peers}.items())

    def watch_tasks(self, tgid: int, *, restarts: bool = False) -> TaskEvents:
        """Record forks, execs and exits of ``tgid`` and its descendants until it is closed.

        With ``restarts`` also restart blocks, when they are armed and when they are used. Takes
        milliseconds: start it while the target still runs. Raises CaptureError when there is no
        such process.
        """
        process = find_process(self._read("tasks", "task", tgid=tgid))
        if process is None:
            raise CaptureError("no such process", where=f"process {tgid}")
        return TaskEvents(
            self._lib,
            self._load("events"),
            self.symbols,
            process.host_tgid,
            process.pid_level,
            restarts=restarts,
        )


class RawTasks:
    """Records of all threads of a process, as read."""

    def __init__(
        self, observer: BpfObserver, tasks: bytes, timers: bytes | None, clocks: tuple[int, int]
    ) -> None:
        self._observer = observer
        self._tasks = tasks
        self._timers = timers
        self._clocks = clocks

    def decode(self) -> KernelView:
        """Turn the bytes into views; does no I/O on the target."""
        observer = self._observer
        around = Surroundings(
            symbols=observer.symbols,
            identify=observer.identify,
            gaps=observer.gaps,
            tick_ns=round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9),
            realtime_ns=self._clocks[0],
            tai_ns=self._clocks[1],
        )
        return decode_tasks(self._tasks, self._timers, around)


class RawFileTable:
    """Records of a descriptor table, as read."""

    def __init__(self, observer: BpfObserver, data: bytes) -> None:
        self._observer = observer
        self._data = data

    def decode(self) -> list[FileView]:
        """Turn the bytes into views, ordered by fd."""
        from ckpt.host.bpf_decode_files import decode_files

        return decode_files(self._data, self._observer.symbols, self._observer.identify)


class RawAreaList:
    """Records of the areas of an mm, as read."""

    def __init__(self, observer: BpfObserver, data: bytes) -> None:
        self._observer = observer
        self._data = data

    def decode(self) -> list[VmaView]:
        """Turn the bytes into views, ordered by address."""
        from ckpt.host.bpf_decode_files import decode_areas

        observer = self._observer
        return decode_areas(self._data, observer.symbols, observer.identify, observer.gaps)


def _until_repeated(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the parts of an iteration over areas, whose addresses rise, up to the last new one.

    The kernel's iterator (6.18), limited to one thread, does not notice its end when it falls on a
    later read: it gives the last areas again, for ever.
    """
    last = b""
    for part in parts:
        start = part[7::-1]  # big-endian, so that bytes compare like addresses
        if last and start <= last:
            return
        last = start
        yield part


def open_observer(cache: Cache | None = None) -> BpfObserver:
    """Open the BPF source and begin to load its programs.

    Raises HostError when this kernel or this user cannot use BPF.
    """
    observer = BpfObserver(cache)
    observer.prepare_beside()
    return observer

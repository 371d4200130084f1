"""Attaches the programs of `ckpt-bpf trace` to a process, and drains what they record.

Owns the choice of tracepoints, the options patched into the programs and the set of watched
processes. What the records mean is `bpf_trace_decode`'s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from ckpt.errors import CaptureError, HostError
from ckpt.host import bpf_trace_records as records
from ckpt.host.bpf_bytecode import Bytecode
from ckpt.host.bpf_cache import Cache
from ckpt.host.bpf_load import Libbpf, check_privileges, load_bytecode
from ckpt.host.bpf_store import TRACE_PROGRAMS, load_programs
from ckpt.host.bpf_trace_ring import RingReader
from ckpt.host.kallsyms import load_symbols

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.host.bpf_load import Addresses, Loaded

_FORK, _EXEC, _EXIT = "sched_process_fork", "sched_process_exec", "sched_process_exit"
_ENTER, _LEAVE = "sys_enter", "sys_exit"
_TIMER = "hrtimer_start"
_SEND, _DELIVER = "signal_generate", "signal_deliver"
_NR_FUTEX: Final = 202
_NR_RESTART_SYSCALL: Final = 219
_WAIT_OPS: Final = frozenset((0, 6, 9, 11, 13))
"""FUTEX_WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2; include/uapi/linux/futex.h."""
_CMD_MASK: Final = 0x7F
_MAX_ELEMENTS: Final = 1 << 15
"""TRACE_MAX_WAITS, bpf/trace.h."""
_MAX_PROCESSES: Final = 1 << 14
"""TRACE_MAX_WATCHED: no more could be watched."""


class Kind(NamedTuple):
    """One kind of event that a user can ask for."""

    numbers: tuple[int, ...]
    """enum trace_kind."""
    tracepoints: tuple[str, ...]
    text: str


KINDS: Final = {
    "fork": Kind((records.FORK_KIND,), (_FORK,), "a process or thread is made"),
    "exec": Kind((records.EXEC_KIND,), (_EXEC,), "a program is executed"),
    "exit": Kind((records.EXIT_KIND,), (_EXIT,), "a thread ends: exit status or signal"),
    "armed": Kind(
        (records.ARMED_KIND,), (_LEAVE,), "a call was interrupted and left a restart_block"
    ),
    "restart": Kind(
        (records.ENTERED_KIND, records.RESULT_KIND),
        (_LEAVE, _TIMER, _DELIVER, _EXIT),
        "restart_syscall is entered, and its result",
    ),
    "eintr": Kind((records.EINTR_KIND,), (_LEAVE, _DELIVER), "a call returns EINTR to the program"),
    "signal": Kind(
        (records.SIGNAL_KIND,), (_SEND, _DELIVER), "a signal is delivered, and who sent it"
    ),
    "altstack": Kind(
        (records.ALTSTACK_KIND,), (_SEND, _DELIVER), "a handler starts on the alternate stack"
    ),
    "robust": Kind(
        (records.ROBUST_KIND,), (_EXIT,), "a thread ends and leaves a robust futex to its heirs"
    ),
    "futex": Kind(
        (records.FUTEX_KIND,),
        (_ENTER, _LEAVE, _DELIVER, _EXIT),
        "a futex wait takes longer than --slow",
    ),
}
"""Every kind of event by its name; the order is that of the help text."""
DEFAULT_KINDS: Final = tuple(name for name in KINDS if name != "futex")


class TraceOptions(NamedTuple):
    """What to record."""

    kinds: tuple[str, ...] = DEFAULT_KINDS
    children: bool = False
    slow_s: float = 1.0
    """Of `futex`: shorter waits are not recorded."""


class _Constants:
    """The options and the kernel's symbols, as what programs are patched with."""

    def __init__(self, symbols: Addresses, options: dict[str, int]) -> None:
        self._symbols = symbols
        self._options = options

    def address_of(self, name: str) -> int | None:
        """Return an option or a symbol's address."""
        value = self._options.get(name)
        return self._symbols.address_of(name) if value is None else value


class Target(NamedTuple):
    """A thread as BPF knows it."""

    host_tid: int
    host_tgid: int
    reader_level: int


class StillWaiting(NamedTuple):
    """A futex wait that goes on."""

    tid: int
    tgid: int
    comm: bytes
    futex: int
    op: int
    began_ns: int
    was_before: bool
    """It had begun before the trace: `began_ns` is then when the trace began."""


class Trace:
    """A running trace of process `tgid`; use as a context manager.

    Raises HostError without the privilege, CaptureError when there is no such process. Detaching
    leaves nothing behind; nothing in the process changes.
    """

    def __init__(self, tgid: int, options: TraceOptions, cache: Cache | None = None) -> None:
        check_privileges()
        self.options = options
        with cache or Cache() as opened:
            self._bytecode = load_programs(opened, TRACE_PROGRAMS)["trace"]
            self.symbols = load_symbols(opened)
        self.gaps = self._bytecode.gaps
        """Struct members that this kernel lacks."""
        self._lib = Libbpf()
        with contextlib.ExitStack() as undo:
            self._finder = self._load({"task"}, {}, undo).programs["task"][1]
            self._target = target = self._find(tgid)
            self.began_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            self._attach(target, undo)
            self._watch_what_is_there(tgid)
            self._undo = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach; what was not drained is gone."""
        self._undo.close()

    def read(self) -> Iterator[bytes]:
        """Yield the records since the last call, in the order of their places in the ring."""
        return self._ring.read()

    @property
    def lost(self) -> int:
        """How many events (or senders of signals) found no room."""
        return self._count(records.COUNT_LOST)

    @property
    def unwatched(self) -> int:
        """How many children could not be watched, as there were too many."""
        return self._count(records.COUNT_UNWATCHED)

    def note_end(self) -> None:
        """Take the process from the watched ones: it may have ended before its end was seen."""
        if self.options.children:
            self._lib.delete_element(self._maps["watched"], _key(self._target.host_tgid))

    def has_processes(self) -> bool:
        """Tell whether any watched process is left; only meant with `children`."""
        return self._lib.next_key(self._maps["watched"], None, 4) is not None

    def waiting(self) -> Iterator[StillWaiting]:
        """Yield the futex waits that have lasted for `slow_s` by now."""
        latest = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - round(self.options.slow_s * 1e9)
        for _, value in self._elements("waits", 4, records.WAIT.size):
            futex, began, op, was_before, _, tid, tgid, _, comm = records.WAIT.unpack(value)
            if 0 < began <= latest:
                yield StillWaiting(tid, tgid, comm, futex, op, began, bool(was_before))

    def _count(self, index: int) -> int:
        value = self._lib.lookup_element(self._maps["counts"], index.to_bytes(4, "little"), 8)
        return int.from_bytes(value, "little")

    def _elements(
        self, name: str, key_bytes: int, value_bytes: int
    ) -> Iterator[tuple[bytes, bytes]]:
        fd, key = self._maps[name], None
        # An element that is removed meanwhile may send us back to the first one.
        for _ in range(_MAX_ELEMENTS):
            key = self._lib.next_key(fd, key, key_bytes)
            if key is None:
                return
            try:
                yield key, self._lib.lookup_element(fd, key, value_bytes)
            except HostError as error:
                if error.errno != errno.ENOENT:  # it ended just now
                    raise

    def _load(
        self, attach: set[str], options: dict[str, int], undo: contextlib.ExitStack
    ) -> Loaded:
        """Load the programs named, with the maps that they use."""
        programs = tuple(p for p in self._bytecode.programs if p.attach in attach)
        used = {name for program in programs for _, name in program.maps}
        maps = tuple(spec for spec in self._bytecode.maps if spec.name in used)
        chosen = Bytecode(programs, maps, self._bytecode.gaps)
        loaded = load_bytecode(self._lib, chosen, _Constants(self.symbols, options))
        undo.callback(loaded.close)
        return loaded

    def _find(self, tgid: int) -> Target:
        found = self._lib.read_iterator(self._finder, tgid=tgid)
        if not found:
            raise CaptureError("no such process", where=f"process {tgid}")
        return Target(*records.TARGET.unpack_from(found))

    def _find_thread(self, tid: int) -> Target | None:
        found = self._lib.read_iterator(self._finder, tid=tid)
        return Target(*records.TARGET.unpack_from(found)) if found else None

    def _attach(self, target: Target, undo: contextlib.ExitStack) -> None:
        options = self.options
        numbers = [number for name in options.kinds for number in KINDS[name].numbers]
        constants = {
            "option_events": sum(1 << number for number in numbers),
            "option_children": int(options.children),
            "option_tgid": target.host_tgid,
            "option_pid_level": target.reader_level,
            "option_slow_ns": round(options.slow_s * 1e9),
        }
        wanted = {point for name in options.kinds for point in KINDS[name].tracepoints}
        if options.children:
            wanted |= {_FORK, _EXIT}
        loaded = self._load(wanted, constants, undo)
        self._maps = loaded.maps
        if options.children:
            self._lib.update_element(self._maps["watched"], _key(target.host_tgid), _key(1))
        size = next(spec.max_entries for spec in self._bytecode.maps if spec.name == "ring")
        self._ring = RingReader(self._maps["ring"], size)
        undo.callback(self._ring.close)
        for program, fd in loaded.programs.values():
            undo.callback(os.close, self._lib.attach_tracepoint(program, fd))

    def _watch_what_is_there(self, tgid: int) -> None:
        """Add the processes that were born before, and the waits that had begun before."""
        processes = _descendants(tgid) if self.options.children else [tgid]
        for process in processes:
            if process != tgid:
                self._watch_child(process)
            if not {"futex", "restart"}.isdisjoint(self.options.kinds):
                for tid in _threads(process):
                    self._note_call(tid, process)

    def _watch_child(self, tgid: int) -> None:
        try:
            host_tgid = self._find(tgid).host_tgid
            self._lib.update_element(self._maps["watched"], _key(host_tgid), _key(1))
        except CaptureError:
            return
        try:
            self._find(tgid)
        except CaptureError:  # It ended, perhaps before its end would have been noticed.
            self._lib.delete_element(self._maps["watched"], _key(host_tgid))

    def _note_call(self, tid: int, tgid: int) -> None:
        """Enter the call of a thread that is in a futex wait or in a restart at this moment."""
        words = _read(f"/proc/{tid}/syscall").split()
        if len(words) < 3:
            return
        if words[0] == b"%d" % _NR_RESTART_SYSCALL and "restart" in self.options.kinds:
            self._note_restart(tid)
        elif words[0] == b"%d" % _NR_FUTEX and "futex" in self.options.kinds:
            self._note_wait(tid, tgid, int(words[1], 16), int(words[2], 16) & _CMD_MASK)

    def _note_restart(self, tid: int) -> None:
        """Enter a restart whose beginning is past; its result is an event."""
        thread = self._find_thread(tid)
        if thread is not None:
            noted = records.RESTARTS_NOTED.to_bytes(8, "little")
            self._lib.update_element(self._maps["restarting"], _key(0), noted)
            entered = records.RESTARTING.pack(1)
            self._lib.add_element(self._maps["restarts"], _key(thread.host_tid), entered)

    def _note_wait(self, tid: int, tgid: int, futex: int, op: int) -> None:
        """Enter a wait that began at an unknown time; the tracer counts from its own start."""
        thread = self._find_thread(tid) if op in _WAIT_OPS else None
        if thread is None:
            return
        comm = _read(f"/proc/{tid}/comm").rstrip(b"\n")[:15]
        wait = records.WAIT.pack(futex, self.began_ns, op, 1, 0, tid, tgid, 0, comm)
        self._lib.add_element(self._maps["waits"], _key(thread.host_tid), wait)


def _key(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _read(path: str) -> bytes:
    """Return a file of /proc, empty when the task is gone."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _threads(tgid: int) -> list[int]:
    try:
        return [int(name) for name in os.listdir(f"/proc/{tgid}/task")]
    except FileNotFoundError:
        return []


def _descendants(tgid: int) -> list[int]:
    """Return `tgid` and all that descend from it, parents first.

    A child that a listed process makes from now on is watched from its birth.
    """
    found = [tgid]
    for process in found:
        for tid in _threads(process):
            children = _read(f"/proc/{process}/task/{tid}/children").split()
            found += map(int, children[: _MAX_PROCESSES - len(found)])
    return found

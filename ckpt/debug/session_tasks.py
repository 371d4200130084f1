"""Processes of an image as objects: what the records say, found by who they belong to."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.session_files import Fds
from ckpt.debug.session_memory import FaultError, Memory
from ckpt.debug.session_threads import Signals, Thread, Threads
from ckpt.debug.session_views import Number, View
from ckpt.debug.text import escape, escape_bytes
from ckpt.objects import siginfo
from ckpt.objects.dispositions import Sighand
from ckpt.objects.limits import NAMES, LimitsRecord
from ckpt.objects.mm import MmRecord
from ckpt.objects.task import ThreadRecord
from ckpt.objects.vma_flags import Vm, name_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckpt.debug.session import Session
    from ckpt.debug.space import Area
    from ckpt.objects.base import ProcessRecord, Record

_SHARED: Final = {"mm": "mm", "areas": "mm", "fs": "fs", "sighand": "sighand"}
"""Tag of a record -> field of the process that leads to it; for `files` there is `Task.fds`."""
_MAX_ARGS_BYTES: Final = 1 << 20
_AUXV_NAMES: Final = {
    3: "AT_PHDR",
    4: "AT_PHENT",
    5: "AT_PHNUM",
    6: "AT_PAGESZ",
    7: "AT_BASE",
    8: "AT_FLAGS",
    9: "AT_ENTRY",
    11: "AT_UID",
    12: "AT_EUID",
    13: "AT_GID",
    14: "AT_EGID",
    15: "AT_PLATFORM",
    16: "AT_HWCAP",
    17: "AT_CLKTCK",
    23: "AT_SECURE",
    25: "AT_RANDOM",
    26: "AT_HWCAP2",
    27: "AT_RSEQ_FEATURE_SIZE",
    28: "AT_RSEQ_ALIGN",
    31: "AT_EXECFN",
    33: "AT_SYSINFO_EHDR",
    51: "AT_MINSIGSTKSZ",
}
"""`include/uapi/linux/auxvec.h`, `arch/x86/include/uapi/asm/auxvec.h`, 6.18; the common ones."""


class Task:
    """One process: its threads, memory, descriptors, and whatever else is its own.

        task.threads[0], task.threads[4243]
        task.memory.read(addr, 16)
        task.fds[3], task.areas, task.signals, task.dispositions["SIGUSR1"]
        task.limits["NOFILE"], task.timers, task.credentials, task.session, task.mm, task.fs

    Every record about the process as a whole is an attribute under the name of its type.
    """

    def __init__(self, session: Session, record: ProcessRecord) -> None:
        self._session = session
        self.record = record
        self.pid = record.tgid
        known = {one.tid: one for one in session.raw.of(ThreadRecord)}
        self.threads = Threads(
            [Thread(session, self, known[tid]) for tid in record.tids if tid in known]
        )

    def __repr__(self) -> str:
        return f"<task {self.pid} ({self.comm}): {len(self.threads)} threads, {len(self.fds)} fds>"

    def __getattr__(self, name: str) -> Any:
        found = [] if name.startswith("_") else self._named(name)
        if not found:
            raise AttributeError(f"task {self.pid} has no {name!r}")
        return found[0]

    def __dir__(self) -> list[str]:
        tags = {str(record.__struct_config__.tag) for record in self._own}
        return sorted({*super().__dir__(), *tags})

    @cached_property
    def _own(self) -> Sequence[Record]:
        refs = {(tag, getattr(self.record, field)) for tag, field in _SHARED.items()}
        return [
            record
            for record in self._session.raw
            if getattr(record, "tgid", None) == self.pid
            or (record.__struct_config__.tag, getattr(record, "ref", None)) in refs
        ]

    def _named(self, tag: str) -> list[View]:
        return [
            View(record, self.memory.locate)
            for record in self._own
            if record.__struct_config__.tag == tag
        ]

    @property
    def records(self) -> list[View]:
        """Every record about this process as a whole."""
        return [View(record, self.memory.locate) for record in self._own]

    @property
    def comm(self) -> str:
        """The name of the leader, or of the first living thread; safe to print."""
        return self.threads[0].comm if len(self.threads) else ""

    @property
    def exe(self) -> str:
        """The path of the program; safe to print."""
        found = self._mm
        return escape(found.exe.path) if found is not None else ""

    @property
    def args(self) -> list[str]:
        """The arguments as they are in memory now; safe to print, empty when not known."""
        found = self._mm
        return [] if found is None else self._strings(found.arg_start, found.arg_end)

    @property
    def environ(self) -> dict[str, str]:
        """The environment as it was at the start of the program; safe to print."""
        found = self._mm
        lines = [] if found is None else self._strings(found.env_start, found.env_end)
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    @property
    def heap(self) -> tuple[int, int]:
        """Start and end of the heap, by the program break."""
        found = self._mm
        return (found.start_brk, found.brk) if found is not None else (0, 0)

    @property
    def auxv(self) -> dict[str, Number]:
        """The auxiliary vector, by name (`AT_ENTRY`), by number where it has no name here."""
        data = self._mm.auxv if self._mm is not None else b""
        words = memoryview(data[: len(data) // 16 * 16]).cast("Q").tolist()
        pairs = zip(words[0::2], words[1::2], strict=True)
        return {
            _AUXV_NAMES.get(kind, str(kind)): self._address(value) for kind, value in pairs if kind
        }

    @cached_property
    def memory(self) -> Memory:
        """The address space: read, search, symbols."""
        return Memory(self._session.image, self._session.raw, self.record)

    @cached_property
    def fds(self) -> Fds:
        """The descriptors, by number."""
        return Fds(self._session.raw, self.record, self.memory.locate)

    @property
    def areas(self) -> list[AreaView]:
        """The memory areas, by address."""
        return [AreaView(area, self.memory) for area in self.memory.areas]

    @property
    def signals(self) -> Signals:
        """The signals pending for the process as a whole; masks are the threads'."""
        found = self._named("process_signals")
        return Signals(found[0].record if found else None)

    @property
    def dispositions(self) -> dict[str, View]:
        """What signals do that are not at their default, by name."""
        found = [one.record for one in self._named("sighand")]
        return {
            siginfo.name_of(one.signo): View(one, self.memory.locate)
            for table in found
            if isinstance(table, Sighand)
            for one in table.dispositions
        }

    @property
    def timers(self) -> list[View]:
        """The POSIX timers; interval timers are `task.itimers`."""
        return self._named("posix_timer")

    @property
    def limits(self) -> dict[str, tuple[int, int]]:
        """The resource limits, (soft, hard) by name: `limits["NOFILE"]`; 2**64 - 1: unlimited."""
        found = [one.record for one in self._named("limits")]
        return {
            name: pair
            for record in found
            if isinstance(record, LimitsRecord)
            for name, pair in zip(NAMES, record.limits, strict=False)
        }

    @property
    def credentials(self) -> View | None:
        """The credentials of the first thread; each thread has its own `creds`."""
        found = self.threads[0].creds if len(self.threads) else None
        return None if found is None else found.credentials

    @property
    def parent(self) -> Task | None:
        """The parent, if the image holds it. An image of one process does not."""
        return self._session.parent_of(self)

    @property
    def children(self) -> list[Task]:
        """The children that the image holds."""
        return [task for task in self._session.tasks.values() if task.parent is self]

    @property
    def _mm(self) -> MmRecord | None:
        found = self._session.raw.of(MmRecord)
        return next((one for one in found if one.ref == self.record.mm), None)

    def _address(self, value: int) -> Number:
        place = self.memory.locate(value)
        return Number(value, f"{value:#x} ({place})" if place else str(value))

    def _strings(self, start: int, end: int) -> list[str]:
        try:
            data = self.memory.read(start, min(max(end - start, 0), _MAX_ARGS_BYTES))
        except FaultError:
            return []
        return [escape_bytes(part) for part in data.removesuffix(b"\0").split(b"\0")]


class AreaView(View):
    """One memory area: `start`, `end`, `flags`, `offset`, `name`, `protection`."""

    __slots__ = ("_memory",)

    record: Area

    def __init__(self, area: Area, memory: Memory) -> None:
        super().__init__(area, memory.locate)
        self._memory = memory

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self.record.end - self.record.start

    @property
    def protection(self) -> str:
        """`rw-p`, as /proc/PID/maps shows it."""
        return protection(self.record.flags)

    @property
    def name(self) -> str:
        """The mapped file, `heap`, `stack` or the like; safe to print."""
        return name_area(self.record, self._memory)

    @property
    def flag_names(self) -> list[str]:
        """The names of its VM_* flags."""
        return name_flags(self.record.flags)

    @property
    def stored_bytes(self) -> int:
        """How much of it the image stores."""
        return self._memory.space.stored.total_within(self.record.start, self.record.end)

    def __repr__(self) -> str:
        start, end = self.record.start, self.record.end
        return f"<{start:#x}-{end:#x} {self.protection} {self.name}, {self.size >> 10} KiB>"


def name_area(area: Area, memory: Memory) -> str:
    """Return the mapped file, `heap`, `stack` or the like; safe to print."""
    space = memory.space
    if 0 <= area.file < len(space.files):
        return escape(space.files[area.file].path)
    module = None if area.special else space.module_at(area.start)
    if module is not None:
        return f"{escape(module.path.rpartition('/')[2])} .bss"
    return space.locate(area.start)


def protection(flags: int) -> str:
    """Return `rw-p`, as /proc/PID/maps shows an area's flags."""
    letters = (("r", Vm.READ), ("w", Vm.WRITE), ("x", Vm.EXEC))
    shown = "".join(letter if flags & bit else "-" for letter, bit in letters)
    return shown + ("s" if flags & Vm.MAYSHARE else "p")

"""The descriptors of a process of an image, each with its open file in a few words."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Final

from ckpt.debug.render import nothing
from ckpt.debug.session_views import View, shorten
from ckpt.debug.text import escape_bytes
from ckpt.objects import siginfo
from ckpt.objects.file_kinds.common import O_ASYNC, O_PATH, FileRecord
from ckpt.objects.file_kinds.epoll import EpollFile
from ckpt.objects.file_kinds.eventfd import EventfdFile
from ckpt.objects.file_kinds.external import ExternalFile
from ckpt.objects.file_kinds.memfd import MemfdFile
from ckpt.objects.file_kinds.pipe import Pipe, PipeFile
from ckpt.objects.file_kinds.signalfd import SignalfdFile
from ckpt.objects.file_kinds.socketpair import SocketFile
from ckpt.objects.file_kinds.timerfd import TimerfdFile
from ckpt.objects.files import FileTable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ckpt.objects.base import ProcessRecord, Records
    from ckpt.objects.files import Descriptor

_ACCESS: Final = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")
_FLAGS: Final = {
    "O_PATH": O_PATH,
    "O_ASYNC": O_ASYNC,
    "O_APPEND": os.O_APPEND,
    "O_NONBLOCK": os.O_NONBLOCK,
    "O_DSYNC": os.O_DSYNC,
    "O_DIRECT": os.O_DIRECT,
    "O_DIRECTORY": os.O_DIRECTORY,
    "O_NOFOLLOW": os.O_NOFOLLOW,
    "O_NOATIME": os.O_NOATIME,
}
_PATH_CHARS: Final = 200
_MAX_FDS_NAMED: Final = 8


def flag_names(flags: int) -> str:
    """Return f_flags as text: `O_RDWR|O_APPEND`; what has no name stays out."""
    names = [] if flags & O_PATH else [_ACCESS[flags & os.O_ACCMODE]]
    return "|".join([*names, *(name for name, bit in _FLAGS.items() if flags & bit)])


def kind_of(record: FileRecord) -> str:
    """Return `regular`, `pipe`, `eventfd`, ...: the kind of an open file."""
    return str(record.__struct_config__.tag).removeprefix("file.")


class OpenFd:
    """One descriptor: its number, and the open file that it leads to.

    `file` is a view of the file's record, with the fields of its kind (`pos`, `path`, `flags`,
    ...); `shared_with` are the other descriptors of the same open file (dup).
    """

    def __init__(
        self,
        entry: Descriptor,
        record: FileRecord | None,
        text: str,
        numbers: Sequence[int],
        locate: Callable[[int], str],
    ) -> None:
        self.fd: int = entry.fd
        self.cloexec = entry.cloexec
        self.record = record
        """None: the image is inconsistent, it has no record of the file."""
        self.kind = kind_of(record) if record is not None else "missing"
        self.text = text
        """What it is, in a few words; safe to print."""
        self._numbers = numbers
        self.file = View(record, locate)
        self.flags = flag_names(record.flags) if record is not None else ""
        self.path = escape_bytes(getattr(record, "path", b""))
        """Safe to print; empty for files without a path."""
        self.pos: int | None = getattr(record, "pos", None)

    @property
    def shared_with(self) -> list[int]:
        """The other descriptors that lead to the same open file."""
        return [number for number in self._numbers if number != self.fd]

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def describe(self) -> str:
        """Return the descriptor in one line, safe to print."""
        at = f", at {self.pos}" if self.pos is not None else ""
        cloexec = ", cloexec" if self.cloexec else ""
        same = ""
        if len(self._numbers) > 1:
            same = f", same as fd {listed(self._numbers, {self.fd})}"
        return f"fd {self.fd}: {self.text}, {self.flags}{at}{cloexec}{same}"


def listed(numbers: Sequence[int], but: Collection[int] = ()) -> str:
    """Return numbers with commas, the first few of them; `but`: those of them to leave out."""
    shown = list(islice((number for number in numbers if number not in but), _MAX_FDS_NAMED))
    more = len(numbers) - len(but) - len(shown)
    text = ", ".join(map(str, shown))
    return f"{text} and {more} more" if more > 0 else text


class Fds(Mapping[int, OpenFd]):
    """The descriptors of a process, by number: `fds[3]`, `for fd in fds`, `len(fds)`."""

    def __init__(
        self, records: Records, process: ProcessRecord, locate: Callable[[int], str] = nothing
    ) -> None:
        """Take the table that `process` refers to."""
        self._locate = locate
        self._entries: dict[int, Descriptor] = {}
        self._files = {one.ref: one for one in records if isinstance(one, FileRecord)}
        self._pipes = {one.ref: one for one in records.of(Pipe)}
        self._texts: dict[int, str] = {}
        self._numbers: dict[int, list[int]] = {}
        """Descriptors by objref of their file."""
        for table in records.of(FileTable):
            if table.ref == process.files:
                self._entries = {entry.fd: entry for entry in table.descriptors}
        for entry in sorted(self._entries.values(), key=lambda entry: entry.fd):
            self._numbers.setdefault(entry.file, []).append(entry.fd)
        self._ends: dict[int, list[int]] = {}
        """Descriptors by objref of their pipe."""
        for ref, numbers in self._numbers.items():
            record = self._files.get(ref)
            if isinstance(record, PipeFile):
                self._ends.setdefault(record.pipe, []).extend(numbers)

    def __getitem__(self, fd: int) -> OpenFd:
        entry = self._entries[fd]
        record = self._files.get(entry.file)
        text = self.describe(record) if record is not None else "no record of its file"
        return OpenFd(entry, record, text, self._numbers[entry.file], self._locate)

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        kinds: dict[str, int] = {}
        for fd in self:
            kind = self.kind(fd)
            kinds[kind] = kinds.get(kind, 0) + 1
        return f"<{len(self)} fds: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}>"

    def __str__(self) -> str:
        return "\n".join(self[fd].describe() for fd in self)

    def kind(self, fd: int) -> str:
        """Return the kind of the file behind a descriptor."""
        record = self._files.get(self._entries[fd].file)
        return kind_of(record) if record is not None else "missing"

    def ref(self, fd: int) -> int:
        """Return the objref of the file behind a descriptor."""
        return self._entries[fd].file

    def describe(self, record: FileRecord) -> str:
        """Return what an open file is, in a few words, safe to print."""
        if record.ref not in self._texts:
            self._texts[record.ref] = self._describe(record)
        return self._texts[record.ref]

    def _describe(self, record: FileRecord) -> str:
        kind = kind_of(record)
        if isinstance(record, PipeFile):
            return self._describe_pipe(record)
        if isinstance(record, SocketFile):
            peers = self._numbers.get(record.peer, [])
            return f"socketpair with fd {listed(peers)}" if peers else "socketpair"
        if isinstance(record, ExternalFile):
            return f"{escape_bytes(record.kind.encode())} outside, {_short(record.what.encode())}"
        if isinstance(record, MemfdFile):
            return f"memfd {_short(record.name)}"
        detail = _detail(record)
        path = getattr(record, "path", b"")
        return " ".join(part for part in (kind, _short(path), detail) if part)

    def _describe_pipe(self, record: PipeFile) -> str:
        end = ("read end", "write end", "both ends", "end")[record.flags & os.O_ACCMODE]
        mine = set(self._numbers.get(record.ref, ()))
        ends = self._ends.get(record.pipe, [])
        pipe = self._pipes.get(record.pipe)
        held = sum(map(len, pipe.chunks)) if pipe is not None else 0
        where = f" {_short(pipe.path)}" if pipe is not None and pipe.path else ""
        other = f", other end fd {listed(ends, mine)}" if len(ends) > len(mine) else ""
        return f"pipe{where}, {end}{other}, holds {held} bytes"


def _short(path: bytes) -> str:
    return shorten(escape_bytes(path), _PATH_CHARS)


def _detail(record: FileRecord) -> str:
    if isinstance(record, EventfdFile):
        return f"count {record.count}"
    if isinstance(record, TimerfdFile):
        every = f" every {record.interval_ns / 1e9:g} s" if record.interval_ns else ""
        return f"clock {record.clockid}{every}" if record.expires_ns else "disarmed"
    if isinstance(record, SignalfdFile):
        return f"for {siginfo.names_in(record.mask)}"
    if isinstance(record, EpollFile):
        return f"watches {len(record.watches)} files"
    return ""

"""What every kind of open file stands on: its record, the table it was found in, its opening.

One `struct file` is one `FileRecord`, however many descriptors lead to it. Nothing here knows any
particular kind.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec

from ckpt.errors import Finding
from ckpt.host.facts import S32, U32
from ckpt.objects.base import Plain, Process, Record
from ckpt.objects.steps import Token

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.host.kernel_view import FileView
    from ckpt.objects.base import Restorer
    from ckpt.objects.steps import Action

O_ASYNC: Final = 0o20000
O_PATH: Final = 0o10000000
O_LARGEFILE: Final = 0o100000
"""`include/uapi/asm-generic/fcntl.h`, 6.18; the os module lacks these or calls them 0."""

FMODE_READ: Final = 1
FMODE_WRITE: Final = 2
"""`include/linux/fs.h`, 6.18."""

SETTABLE_FLAGS: Final = os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT | os.O_NOATIME
"""Status flags that F_SETFL changes (SETFL_MASK of fs/fcntl.c), O_ASYNC aside."""

SETFL: Final = 4
SYS_FCNTL: Final = 72
"""`include/uapi/asm-generic/fcntl.h`, `arch/x86/entry/syscalls/syscall_64.tbl`."""


Fd = Annotated[int, msgspec.Meta(ge=0, le=1 << 30)]
"""A descriptor's number: fs.nr_open allows no more."""
Bytes = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""A size or an offset: loff_t."""
RawPath = Annotated[bytes, msgspec.Meta(max_length=8192)]

_INFO_BYTES: Final = 1024

UNKNOWN: Final = object()
"""Not looked for yet."""


class Owner(Plain, frozen=True):
    """Who gets SIGIO of a file (struct fown_struct)."""

    pid: S32
    kind: Annotated[int, msgspec.Meta(ge=0, le=2)]
    """F_OWNER_TID 0, F_OWNER_PID 1, F_OWNER_PGRP 2."""
    signum: Annotated[int, msgspec.Meta(ge=0, le=64)]


class FileRecord(Record, frozen=True, kw_only=True):
    """One struct file: what all kinds have. Subclasses set a tag that begins with `file.`."""

    ref: int
    flags: U32
    """f_flags without O_CLOEXEC: access mode, status flags."""
    owner: Owner | None = None

    def __post_init__(self) -> None:
        """Refuse what no kernel can have said: it would be an error of ours later."""
        if b"\0" in getattr(self, "path", b"") + getattr(self, "name", b""):
            raise ValueError("a path with a zero byte in it")


class OpenFile:
    """One struct file of the table under observation, and the descriptors that lead to it."""

    __slots__ = ("_link", "fds", "place", "ref", "view")

    def __init__(self, ref: int, view: FileView) -> None:
        self.ref = ref
        self.view = view
        """As seen through the lowest descriptor."""
        self.fds: list[int] = [view.fd]
        self.place: object = UNKNOWN
        """Where `places.find_place` has found it."""
        self._link: bytes | None = None

    def unknown(self) -> OpenFile:
        """Return the same file with nothing found out about it yet."""
        fresh = OpenFile(self.ref, self.view)
        fresh.fds = self.fds
        return fresh

    @property
    def flags(self) -> int:
        """f_flags as a record holds them: without what only the first opening can have had."""
        flags = self.view.f_flags & ~os.O_CLOEXEC
        return flags & ~os.O_TMPFILE if flags & os.O_TMPFILE == os.O_TMPFILE else flags

    @property
    def is_socket(self) -> bool:
        """Tell whether this is a socket of any family."""
        return stat.S_ISSOCK(self.view.mode)

    @property
    def is_pipe(self) -> bool:
        """Tell whether this is an end of a pipe or FIFO."""
        return stat.S_ISFIFO(self.view.mode)

    @property
    def is_path_only(self) -> bool:
        """Tell whether it was opened with O_PATH: a place, not something to read or write."""
        return bool(self.view.f_flags & O_PATH)

    @property
    def can_read(self) -> bool:
        """Tell whether the access mode lets one read."""
        return self.view.f_flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)

    @property
    def can_write(self) -> bool:
        """Tell whether the access mode lets one write."""
        return self.view.f_flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)

    def is_anon(self, f_op: str, name: str) -> bool:
        """Tell whether it is a nameless kernel object of these operations.

        Without BPF the operations have no symbol; then the anonymous inode's name decides, which no
        file with a path can have: such inodes have a device of their own.
        """
        return self.view.f_op == f_op if self.view.f_op else self.view.anon_name == name

    def link(self, table: Table) -> bytes:
        """Return what readlink of /proc/PID/fd/N says: for people and for reopening, never proof.

        A path as our own root sees it; " (deleted)" stands behind it when the name is gone.
        """
        if self._link is None:
            self._link = os.readlink(b"%d" % self.fds[0], dir_fd=table.folder_fd)
        return self._link

    def common(self) -> tuple[int, int, Owner | None]:
        """Return ref, flags and owner: the fields of every `FileRecord`."""
        view = self.view
        if not view.owner_pid and not view.owner_signum:
            return self.ref, self.flags, None
        return self.ref, self.flags, Owner(view.owner_pid, view.owner_type, view.owner_signum)


class Table:
    """One descriptor table under observation: its files, each once, lowest descriptor first."""

    def __init__(
        self, process: Process, files: Sequence[OpenFile], folder_fd: int, info_fd: int
    ) -> None:
        self.process = process
        self.files = files
        self.folder_fd = folder_fd
        """/proc/PID/task/TID/fd of a living thread, opened as a folder."""
        self.info_fd = info_fd
        """Its fdinfo, likewise."""
        self.by_fd: dict[int, OpenFile] = {fd: file for file in files for fd in file.fds}
        self.by_type: dict[int, list[OpenFile]] = {}
        """S_IFIFO, S_IFSOCK, ... -> files, those opened with O_PATH left out."""
        for file in files:
            if not file.view.f_flags & O_PATH:
                self.by_type.setdefault(stat.S_IFMT(file.view.mode), []).append(file)
        self.kept: dict[str, object] = {}
        """What a kind found out once about the whole table, by a name of its own."""

    def where(self, file: OpenFile) -> str:
        """Name a file for a finding."""
        shown = ", ".join(map(str, file.fds[:4])) + (", ..." if len(file.fds) > 4 else "")
        return f"process {self.process.tgid} fd {shown}"

    def describe(self, file: OpenFile) -> str:
        """Return what a file is, for a finding."""
        view = file.view
        name = view.anon_name or printable(file.link(self))
        return f"{view.fs_type} {name}" if view.fs_type and not view.anon_name else name

    def is_still(self, file: OpenFile) -> bool:
        """Tell whether the number still leads to the inode that was seen."""
        try:
            now = os.stat(b"%d" % file.fds[0], dir_fd=self.folder_fd)
        except OSError:
            return False
        return now.st_ino == file.view.ino

    def fdinfo(self, file: OpenFile) -> dict[bytes, list[bytes]]:
        """Return the lines of /proc/PID/fdinfo/N by their names."""
        fd = os.open(b"%d" % file.fds[0], os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.info_fd)
        try:
            text = os.read(fd, _INFO_BYTES)
            # Short unless an epoll instance watches many files: then until the end.
            while len(text) >= _INFO_BYTES and (more := os.read(fd, 1 << 20)):
                text += more
        finally:
            os.close(fd)
        return parse_fdinfo(text)

    def copy(self, file: OpenFile) -> int:
        """Return our own descriptor of the same struct file; the caller closes it."""
        return self.process.getfd(file.fds[0])


def parse_fdinfo(text: bytes) -> dict[bytes, list[bytes]]:
    """Split the `name: value` lines of an fdinfo file; a name may come many times."""
    found: dict[bytes, list[bytes]] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(b":")
        if colon:
            found.setdefault(name.strip(), []).append(value.strip())
    return found


def complete_pipes(table: Table) -> set[tuple[int, int]]:
    """Return (dev, ino) of the pipes whose ends are all in this table, as far as one can see."""
    known = table.kept.get("pipes")
    if not isinstance(known, set):
        ends: tuple[set[tuple[int, int]], set[tuple[int, int]]] = (set(), set())
        for file in table.by_type.get(stat.S_IFIFO, ()):
            for side, holds in zip(ends, (file.can_read, file.can_write), strict=True):
                if holds:
                    side.add((file.view.dev, file.view.ino))
        known = table.kept["pipes"] = ends[0] & ends[1]
        half = ends[0] ^ ends[1]
        for file in table.by_type.get(stat.S_IFIFO, ()) if half else ():
            inode = (file.view.dev, file.view.ino)
            if inode in half and _is_widowed(file, table):
                known.add(inode)
    return known


def _is_widowed(file: OpenFile, table: Table) -> bool:
    """Tell whether nobody at all has the other end of a pipe open."""
    import select

    if file.is_path_only:
        return False
    try:
        copy = table.copy(file)
    except OSError:
        return False  # Closed meanwhile: the target runs.
    try:
        poller = select.poll()
        poller.register(copy, 0)
        gone = select.POLLHUP if file.can_read else select.POLLERR
        return any(events & gone for _, events in poller.poll(0))
    finally:
        os.close(copy)


def find_leak(file: OpenFile, table: Table) -> Iterator[Finding]:
    """Yield a blocker if somebody beside this table has the file open; only a frozen table tells.

    For kinds that cannot be mapped: their only other holders are foreign tables and messages.
    """
    count = file.view.f_count
    if table.process.is_frozen and count is not None and count > len(file.fds):
        what = f"{table.describe(file)}: also open outside ({count} references, "
        what += f"{len(file.fds)} found)"
        yield Finding(table.where(file), what, "end the other process that inherited it")


def printable(raw: bytes) -> str:
    """Return a path from the target as text without control characters."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Opening(NamedTuple):
    """How the restorer makes one or more files: `action` leaves each at `file_key(ref)`."""

    refs: tuple[int, ...]
    action: Action
    needs: tuple[Token, ...] = ()
    after: tuple[Token, ...] = ()


class Placed(NamedTuple):
    """Where the files of one table stand once they are placed."""

    tgid: int
    numbers: Mapping[int, Sequence[int]]
    """File objref -> descriptors, ascending."""
    used: frozenset[int]
    """Every number that is not free, the socket's included."""
    cloexec: frozenset[int]
    """Numbers that close on exec."""
    taken: Token
    """What a step needs that uses the descriptors."""
    placed: Token
    """What such a step provides: others come when all is settled."""


def file_key(ref: int) -> str:
    """Return the restorer's key of an opened file."""
    return f"file:{ref}"


def inode_key(ref: int) -> str:
    """Return the restorer's key of a recreated inode, open for reading and writing."""
    return f"inode:{ref}"


def inode_made(ref: int) -> Token:
    """The inode stands at `inode_key(ref)`, with its content."""
    return Token("inode", ref)


def inode_sealed(ref: int) -> Token:
    """The inode has its seals: nobody needs it open for writing any more."""
    return Token("sealed", ref)


def set_status_flags(fd: int, flags: int) -> None:
    """Give `fd` the settable ones of `flags`, if it has others."""
    import fcntl

    now = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = (now & ~SETTABLE_FLAGS) | (flags & SETTABLE_FLAGS)
    if wanted != now:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)


def reopen(fd: int, flags: int) -> int:
    """Return a new open file on the same inode, through our own descriptor."""
    return os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NOCTTY)


def keep(restorer: Restorer, ref: int, fd: int) -> None:
    """Hand a newly opened file over to the restorer."""
    restorer.fds[file_key(ref)] = fd

"""Locks on files that a process holds: POSIX, OFD and flock, taken again by the task itself.

The owner of a POSIX lock is the task's descriptor table, that of the others the open file, so the
task takes all of them when its descriptors stand. Closing any descriptor of a file gives up POSIX
locks on it: they come after everything that closes one. A lock that somebody else has taken since
makes the restore fail. Leases are refused.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from typing import TYPE_CHECKING, Final, Literal

from ckpt.errors import CaptureError, Finding
from ckpt.objects.base import Plain, Record
from ckpt.objects.file_kinds.common import Bytes, Fd, printable
from ckpt.objects.steps import Blob, Call, Token, fds_placed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.host.kernel_view import FileView
    from ckpt.objects.base import Builder, Process, Records

SYS_FCNTL, SYS_FLOCK = 72, 73
F_SETLK, F_OFD_SETLK = 6, 37
F_RDLCK, F_WRLCK = 0, 1
LOCK_SH, LOCK_EX, LOCK_NB = 1, 2, 4
_FLOCK: Final = struct.Struct("<hhxxxxqqixxxx")
"""struct flock, 32 bytes, `include/uapi/asm-generic/fcntl.h`, 6.18."""
_LINE: Final = re.compile(
    rb"^lock:\s*\d+: (\w+)\s+(\w+)\s+(\w+) (-?\d+) [0-9a-f]+:[0-9a-f]+:\d+ (\d+) (\d+|EOF)", re.M
)
"""fs/locks.c, lock_get_status (6.18): POSIX|OFDLCK|FLOCK|LEASE|DELEG, ADVISORY, READ|WRITE."""
Kind = Literal["posix", "ofd", "flock"]
POSIX: Final = "posix"
OFD: Final = "ofd"
FLOCK: Final = "flock"
_KINDS: Final[dict[bytes, Kind]] = {b"POSIX": POSIX, b"OFDLCK": OFD, b"FLOCK": FLOCK}


class Lock(Plain, frozen=True):
    """One struct file_lock."""

    fd: Fd
    """A descriptor to take it through."""
    kind: Kind
    is_write: bool
    start: Bytes
    length: Bytes
    """0: to the end of the file, however it grows."""


class LocksRecord(Record, tag="locks", frozen=True, kw_only=True):
    """The locks that one process holds."""

    tgid: int
    files: int
    """Objref of its descriptor table."""
    locks: list[Lock]


RECORDS = (LocksRecord,)


def survey(process: Process) -> Iterator[Finding]:
    """Refuse leases."""
    for view in _candidates(process):
        for kind, *_ in _read_lines(process, view.fd):
            if kind not in _KINDS:
                what = f"a {kind.decode().lower()} on {_name(process, view.fd)}: not supported"
                hint = "give it up with fcntl(F_SETLEASE, F_UNLCK)"
                yield Finding(f"process {process.tgid} fd {view.fd}", what, hint)


def capture(process: Process) -> LocksRecord:
    """Record every lock once."""
    process.findings.extend(survey(process))
    locks: dict[tuple[object, ...], Lock] = {}
    for view in _candidates(process):
        for kind, _, mode, _, start, end in _read_lines(process, view.fd):
            if kind in _KINDS:
                lock = _make_lock(view, _KINDS[kind], mode == b"WRITE", int(start), end)
                # A POSIX lock shows up at every descriptor of the inode, of whatever mode.
                owner = (view.dev, view.ino) if lock.kind == POSIX else view.file
                key = (lock.kind, owner, lock.is_write, lock.start, lock.length)
                if key not in locks or (lock.kind == POSIX and not _suits(process, locks[key])):
                    locks[key] = lock
    return LocksRecord(
        tgid=process.tgid,
        files=process.identities.ref("files", process.tgid),
        locks=list(locks.values()),
    )


def finish(raw: LocksRecord, process: Process) -> Iterable[Record]:
    """Return the record, if there is any lock."""
    del process
    return [raw] if raw.locks else []


def plan(records: Records, build: Builder) -> None:
    """Let the task take its locks, without waiting for anybody."""
    for record in records.of(LocksRecord):
        build.tape(
            record.tgid,
            [_lock_call(lock) for lock in record.locks],
            f"take {len(record.locks)} file locks",
            needs=[fds_placed(record.files)],
            provides=[Token("locks", record.files)],
        )


def _candidates(process: Process) -> Iterator[FileView]:
    for _, view in sorted(process.file_views.items()):
        if view.has_locks is not False and stat.S_IFMT(view.mode) in (stat.S_IFREG, stat.S_IFDIR):
            yield view


def _read_lines(process: Process, fd: int) -> list[tuple[bytes, ...]]:
    try:
        text = process.read(f"fdinfo/{fd}")
    except FileNotFoundError:
        if process.is_frozen:
            raise
        return []  # Closed meanwhile: the target runs.
    found = _LINE.findall(text)
    if len(found) != text.count(b"lock:\t"):
        raise CaptureError("a lock in fdinfo that is not understood", where=f"fd {fd}")
    return found


def _make_lock(view: FileView, kind: Kind, is_write: bool, start: int, end: bytes) -> Lock:
    length = 0 if end == b"EOF" else int(end) - start + 1
    return Lock(view.fd, kind, is_write, start, length)


def _suits(process: Process, lock: Lock) -> bool:
    """Tell whether a lock can be taken through its descriptor: it must be open for that."""
    mode = process.file_views[lock.fd].f_flags & os.O_ACCMODE
    return mode == os.O_RDWR or mode == (os.O_WRONLY if lock.is_write else os.O_RDONLY)


def _name(process: Process, fd: int) -> str:
    return printable(os.readlink(os.fsencode(process.path(f"fd/{fd}"))))


def _lock_call(lock: Lock) -> Call:
    if lock.kind == FLOCK:
        return Call(SYS_FLOCK, (lock.fd, (LOCK_EX if lock.is_write else LOCK_SH) | LOCK_NB))
    kind = F_WRLCK if lock.is_write else F_RDLCK
    content = Blob(_FLOCK.pack(kind, os.SEEK_SET, lock.start, lock.length, 0))
    return Call(SYS_FCNTL, (lock.fd, F_OFD_SETLK if lock.kind == OFD else F_SETLK, content))

"""Files of proc and sysfs, open for reading: what is read is the kernel's answer of the moment.

They are opened again by path and read on where the reading was. Those of another process are
refused (that process may be another one by then), and so is whatever keeps something for the one
who opened it: files open for writing (pressure triggers), the kernel log.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

from ckpt.errors import RestoreError
from ckpt.objects.file_kinds.common import (
    SETTABLE_FLAGS,
    Bytes,
    FileRecord,
    OpenFile,
    Opening,
    RawPath,
    Table,
    keep,
    printable,
    set_status_flags,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.errors import Finding
    from ckpt.objects.base import Builder, Records, Restorer

_FILE_SYSTEMS: Final = {"proc": b"/proc/", "sysfs": b"/sys/"}
_WITH_STATE: Final = frozenset((b"/proc/kmsg", b"/proc/kcore", b"/proc/kpagemap"))


_MOST_READ: Final = 1 << 20
"""Of a file that cannot seek; the kernel gives at most this much at once anyway."""


class AnswerFile(FileRecord, tag="file.answer", frozen=True, kw_only=True):
    """An open file of proc or sysfs."""

    path: RawPath
    pos: Bytes


RECORDS = (AnswerFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is such a file of the whole machine, or of the process itself."""
    folder = _FILE_SYSTEMS.get(file.view.fs_type)
    if folder is None or not stat.S_ISREG(file.view.mode) or file.can_write:
        return False
    path = file.link(table)
    if not path.startswith(folder) or path in _WITH_STATE:
        return False
    return _pid_of(path) in (0, table.process.tgid) and _path_leads_to(path, file)


def _pid_of(path: bytes) -> int:
    """Return the process whose file this is, 0 for the machine's, -1 for a single thread's."""
    parts = path.split(b"/")
    if parts[1] != b"proc" or not parts[2].isdigit():
        return 0
    return -1 if parts[3:4] == [b"task"] else int(parts[2])


def _path_leads_to(path: bytes, file: OpenFile) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_dev == file.view.dev


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Yield nothing: all of these can be opened again."""
    del files, table
    return ()


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[AnswerFile]:
    """Record path and position."""
    for file in files:
        ref, flags, owner = file.common()
        path, pos = file.link(table), file.view.f_pos
        yield AnswerFile(ref=ref, flags=flags, owner=owner, path=path, pos=pos)


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Open each again: the process has its pid, and so its folder in /proc, from the start."""
    del build
    for record in records.of(AnswerFile):
        yield Opening((record.ref,), OpenAnswer(record))


class OpenAnswer:
    """Open a file of the kernel's by path and seek to where it was being read."""

    def __init__(self, record: AnswerFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Open it, only if it is such a file still; seek where the file can."""
        record = self.record
        flags = record.flags & ~SETTABLE_FLAGS & ~os.O_ACCMODE
        try:
            fd = os.open(record.path, flags | os.O_CLOEXEC | os.O_NOCTTY)
        except OSError as error:
            where = printable(record.path)
            raise RestoreError("cannot be opened", where=where, errno=error.errno) from error
        keep(restorer, record.ref, fd)
        if not record.path.startswith(tuple(_FILE_SYSTEMS.values())) or not _is_answer(fd):
            raise RestoreError("is no file of proc or sysfs", where=printable(record.path))
        set_status_flags(fd, record.flags)
        if record.pos:
            _seek(fd, record.pos)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        at = f" at {self.record.pos}" if self.record.pos else ""
        return f"open {printable(self.record.path)}{at}"


def _is_answer(fd: int) -> bool:
    """Tell whether it is a regular file without blocks, as all of these are and no data is."""
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and status.st_blocks == 0


def _seek(fd: int, pos: int) -> None:
    """Seek; a file that cannot is read once from its start, and has been read to its end."""
    try:
        os.lseek(fd, pos, os.SEEK_SET)
    except OSError as error:
        if error.errno not in (errno.ESPIPE, errno.EINVAL):
            raise
        os.read(fd, min(pos, _MOST_READ))

"""Descriptors that lead outside: the shell's terminal, pipe or socket, replaced at a restore.

What is external: a terminal that is one of the standard streams or the controlling terminal,
through whichever descriptor (bash's 255); a pipe of a standard stream whose two ends are not both
inside, likewise; a socket on a standard stream whose peer is not inside.

Descriptors 0, 1 and 2 take the restoring command's stream of the same number, each its own, even if
they were one open file. Any other one takes a stream that it shared its open file or pipe with; if
those were several (one terminal on all three), the first of them that is a terminal now, else the
first whose access mode suits. Nothing inside an external object is stored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from ckpt.errors import RestoreError
from ckpt.objects.file_kinds.common import (
    FileRecord,
    OpenFile,
    Opening,
    Table,
    keep,
    printable,
    reopen,
    set_status_flags,
)
from ckpt.objects.file_kinds.streams import STREAMS, external_refs, inode_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.errors import Finding
    from ckpt.objects.base import Builder, Records, Restorer


class ExternalFile(FileRecord, tag="file.external", frozen=True, kw_only=True):
    """An open file of somebody else's, to be replaced by a stream of the restoring command."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"flags", "what", "kind", "streams"})
    kind: str
    """terminal, pipe or socket."""
    what: str
    """For people: `pipe:[4711]`, `/dev/pts/3`."""
    streams: list[int]
    """Standard streams that may replace it, best first; empty: any, a terminal first."""


RECORDS = (ExternalFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether this file leads outside and will be replaced."""
    return file.ref in external_refs(table)


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Yield nothing: every external file can be replaced."""
    del files, table
    return ()


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[ExternalFile]:
    """Record what stands there now and which streams may replace it."""
    for file in files:
        ref, flags, owner = file.common()
        yield ExternalFile(
            ref=ref,
            flags=flags,
            owner=owner,
            kind="socket" if file.is_socket else "pipe" if file.is_pipe else "terminal",
            what=printable(file.link(table)),
            streams=_streams_of(file, table),
        )


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Take a stream of the restoring command for each."""
    del build
    for record in records.of(ExternalFile):
        yield Opening((record.ref,), TakeStream(record))


class TakeStream:
    """Duplicate one of our own standard streams for the process."""

    def __init__(self, record: ExternalFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Duplicate it, or reopen it where only its blocking mode differs from the recorded."""
        stream = self._choose()
        record = self.record
        if _same_blocking(stream, record.flags):
            keep(restorer, record.ref, os.dup(stream))
            return
        try:
            fd = reopen(stream, record.flags & (os.O_ACCMODE | os.O_NONBLOCK))
        except OSError:
            # A socket cannot be opened again: its one open file then changes for all who share it,
            # as it had when the process set the flag.
            fd = os.dup(stream)
            set_status_flags(fd, record.flags)
        keep(restorer, record.ref, fd)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        streams = self.record.streams or list(STREAMS)
        named = " or ".join(map(str, streams))
        return f"take our own stream {named} instead of {self.record.kind} {self.record.what}"

    def _choose(self) -> int:
        candidates = [s for s in self.record.streams or STREAMS if _is_open(s)]
        if not candidates:
            what = f"{self.record.kind} {self.record.what} has no stream of ours to replace it"
            hint = "run the restore with standard input, output and error open"
            raise RestoreError(what, hint=hint)
        if len(candidates) > 1:
            for stream in candidates:
                if self.record.kind == "terminal" and os.isatty(stream):
                    return stream
            for stream in candidates:
                if _access_suits(stream, self.record.flags):
                    return stream
        return candidates[0]


def _streams_of(file: OpenFile, table: Table) -> list[int]:
    own = [fd for fd in file.fds if fd in STREAMS]
    if own:
        return own
    streams = [(fd, table.by_fd[fd]) for fd in STREAMS if fd in table.by_fd]
    same = [fd for fd, other in streams if other.view.file == file.view.file]
    if same or not file.is_pipe:
        return same
    return [
        fd
        for fd, other in streams
        if other.is_pipe and inode_of(other) == inode_of(file) and other.can_read == file.can_read
    ]


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _same_blocking(stream: int, flags: int) -> bool:
    return os.get_blocking(stream) != bool(flags & os.O_NONBLOCK)


def _access_suits(stream: int, flags: int) -> bool:
    import fcntl

    now = fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_ACCMODE
    return now in (os.O_RDWR, flags & os.O_ACCMODE)

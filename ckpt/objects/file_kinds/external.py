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

import fcntl
import os
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from ckpt.errors import RestoreError
from ckpt.objects.file_kinds.common import (
    FileRecord,
    OpenFile,
    Opening,
    Placed,
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
    from ckpt.objects.base import Builder, Process, Records, Restorer


TCGETS2: Final = 0x802C542A
TCSETS2: Final = 0x402C542B
TERMIOS2_BYTES: Final = 44
"""`include/uapi/asm-generic/ioctls.h`, `termbits.h`, 6.18."""
_PGRP, _TPGID = 2, 5
"""Fields of /proc/PID/stat behind the name (fs/proc/array.c, do_task_stat)."""


class ExternalFile(FileRecord, tag="file.external", frozen=True, kw_only=True):
    """An open file of somebody else's, to be replaced by a stream of the restoring command."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"flags", "what", "kind", "streams", "modes"})
    kind: str
    """terminal, pipe or socket."""
    what: str
    """For people: `pipe:[4711]`, `/dev/pts/3`."""
    modes: Annotated[bytes, msgspec.Meta(max_length=64)] = b""
    """struct termios2 of a terminal, if the process had its foreground."""
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
            modes=_read_modes(file, table),
        )


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Take a stream of the restoring command for each."""
    del build
    for record in records.of(ExternalFile):
        yield Opening((record.ref,), TakeStream(record))


def settle(records: Records, placed: Placed, build: Builder) -> None:
    """Put the terminal into the modes that the process had it in: raw for an editor, a shell."""
    if build.options.detach:
        return  # The terminal stays the shell's.
    found = [r for r in records.of(ExternalFile) if r.modes and r.ref in placed.numbers]
    if found:
        build.host_step(
            SetModes(found[0]),
            "terminal modes",
            needs=[placed.taken],
            provides=[placed.placed],
        )


def _read_modes(file: OpenFile, table: Table) -> bytes:
    if file.is_socket or file.is_pipe or not _has_foreground(table.process):
        return b""
    copy = table.copy(file)
    try:
        return fcntl.ioctl(copy, TCGETS2, bytes(TERMIOS2_BYTES))
    except OSError:
        return b""  # Hung up: it has no modes any more.
    finally:
        os.close(copy)


def _has_foreground(process: Process) -> bool:
    stat = process.read("stat")
    fields = stat[stat.rindex(b")") + 2 :].split()
    return fields[_PGRP] == fields[_TPGID]


class SetModes:
    """Set the modes of the terminal that the process gets, if we are in its foreground."""

    def __init__(self, record: ExternalFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Set them, to be taken back if the restore fails."""
        stream = next((s for s in (self.record.streams or STREAMS) if os.isatty(s)), None)
        if stream is None or len(self.record.modes) != TERMIOS2_BYTES:
            return
        try:
            if os.tcgetpgrp(stream) != os.getpgrp():
                return
        except OSError:
            return  # Not our controlling terminal.
        before = fcntl.ioctl(stream, TCGETS2, bytes(TERMIOS2_BYTES))
        if before != self.record.modes:
            restorer.undo.append(partial(fcntl.ioctl, stream, TCSETS2, before))
            fcntl.ioctl(stream, TCSETS2, self.record.modes)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return "set the terminal's modes, if it is ours to set"


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
    now = fcntl.fcntl(stream, fcntl.F_GETFL) & os.O_ACCMODE
    return now in (os.O_RDWR, flags & os.O_ACCMODE)

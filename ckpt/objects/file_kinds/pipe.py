"""Pipes and FIFOs with both ends inside: capacity, packets, data, and every open end.

The data is copied with tee(2), which takes nothing away. A pipe with an end outside is refused,
unless it is a standard stream (see `external`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios
from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.errors import CaptureError, Finding, RestoreError
from ckpt.host.facts import S32, U32
from ckpt.host.syscalls import syscall
from ckpt.objects.base import Record
from ckpt.objects.file_kinds.common import (
    O_LARGEFILE,
    FileRecord,
    OpenFile,
    Opening,
    RawPath,
    Table,
    complete_pipes,
    find_leak,
    keep,
    printable,
    reopen,
    set_status_flags,
)
from ckpt.objects.file_kinds.places import find_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.objects.base import Builder, Records, Restorer

SYS_TEE: Final = 276
SPLICE_F_NONBLOCK: Final = 2
F_SETPIPE_SZ: Final = 1031
F_GETPIPE_SZ: Final = 1032
"""`include/uapi/linux/fcntl.h`, `include/linux/splice.h`, 6.18."""


class Pipe(Record, tag="pipe", frozen=True, kw_only=True):
    """A struct pipe_inode_info: what both ends share."""

    ref: int
    path: RawPath
    """Of a FIFO; empty for a pipe."""
    uid: U32
    gid: U32
    capacity: S32
    chunks: list[bytes]
    """What is in it; several, or one of a packet writer: each one is a packet."""
    is_packets: bool


class PipeFile(FileRecord, tag="file.pipe", frozen=True, kw_only=True):
    """An open end (or both ends, O_RDWR) of a pipe."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()
    pipe: int


RECORDS = (Pipe, PipeFile)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is an end of a pipe or FIFO."""
    del table
    return file.is_pipe


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse pipes that somebody outside has an end of, and FIFOs without a name."""
    complete = complete_pipes(table)
    for file in files:
        inside = (file.view.dev, file.view.ino) in complete
        end = "read" if file.can_read else "write"
        named = printable(file.link(table))
        if not inside:
            what = f"{end} end of {named}, whose other end is outside this process"
            hint = "only standard input, output and error may lead outside; close it"
            yield Finding(table.where(file), what, hint)
        elif _is_fifo(file) and find_place(file, table) is None:
            what = f"FIFO {named} has been removed or hidden"
            yield Finding(table.where(file), what, "let the program close it")
        else:
            yield from find_leak(file, table)


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[Record]:
    """Record each pipe once, with its data, then every open end."""
    by_pipe: dict[tuple[int, int], list[OpenFile]] = {}
    complete = complete_pipes(table)
    for file in files:
        inode = (file.view.dev, file.view.ino)
        if inode in complete:
            by_pipe.setdefault(inode, []).append(file)
    for inode, ends in by_pipe.items():
        pipe = table.process.identities.ref("pipe", inode)
        yield _capture_pipe(pipe, ends, table)
        for file in ends:
            ref, flags, owner = file.common()
            yield PipeFile(ref=ref, flags=flags, owner=owner, pipe=pipe)


def _capture_pipe(ref: int, ends: Sequence[OpenFile], table: Table) -> Pipe:
    reader = next((file for file in ends if file.can_read), ends[0])
    copy = table.copy(reader)
    try:
        found = os.fstat(copy)
        capacity = fcntl.fcntl(copy, F_GETPIPE_SZ)
        # Without a reader nobody will ever see what is left in it.
        size = waiting_bytes(copy) if reader.can_read else 0
        chunks = copy_data(copy, capacity, size) if size else []
    finally:
        os.close(copy)
    if sum(map(len, chunks)) != size:
        what = f"{size} bytes wait in it, {sum(map(len, chunks))} could be copied"
        raise CaptureError(what, where=table.where(reader))
    return Pipe(
        ref=ref,
        path=reader.link(table) if _is_fifo(reader) else b"",
        uid=found.st_uid,
        gid=found.st_gid,
        capacity=capacity,
        chunks=chunks,
        is_packets=len(chunks) > 1 or any(f.can_write and f.flags & os.O_DIRECT for f in ends),
    )


def waiting_bytes(fd: int) -> int:
    """Return how many bytes can be read from `fd` at once (FIONREAD)."""
    answer = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", answer)[0])


def copy_data(source_fd: int, capacity: int, size: int) -> list[bytes]:
    """Return what is in a pipe, taking nothing away: one chunk a packet, or all in one."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(write_fd, F_SETPIPE_SZ, capacity)
        syscall(SYS_TEE, source_fd, write_fd, size, SPLICE_F_NONBLOCK)
        chunks = []
        while chunk := _read_chunk(read_fd, size):
            chunks.append(chunk)
        return chunks
    finally:
        os.close(read_fd)
        os.close(write_fd)


def _read_chunk(fd: int, size: int) -> bytes:
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return b""


def _is_fifo(file: OpenFile) -> bool:
    return file.view.fs_type != "pipefs" if file.view.fs_type else file.view.nlink > 0


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Make each pipe with all its ends."""
    del build
    ends: dict[int, list[PipeFile]] = {}
    for record in records.of(PipeFile):
        ends.setdefault(record.pipe, []).append(record)
    for pipe in records.of(Pipe):
        files = ends.get(pipe.ref, [])
        yield Opening(tuple(file.ref for file in files), MakePipe(pipe, files))


class MakePipe:
    """Make a pipe, or open a FIFO; give it its size, its data and its ends."""

    def __init__(self, pipe: Pipe, ends: Sequence[PipeFile]) -> None:
        self.pipe = pipe
        self.ends = tuple(ends)

    def perform(self, restorer: Restorer) -> None:
        """Fill before the recorded flags are set: a packet writer is one by its flags."""
        pipe = self.pipe
        made = [_open_fifo(pipe.path)] if pipe.path else list(os.pipe2(os.O_CLOEXEC))
        try:
            self._prepare(made)
            self._open_ends(restorer, made)
        finally:
            for fd in made:
                os.close(fd)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        pipe = self.pipe
        what = f"open FIFO {printable(pipe.path)}" if pipe.path else "make a pipe"
        size = sum(map(len, pipe.chunks))
        return f"{what} with {len(self.ends)} ends, {size} of {pipe.capacity} bytes full"

    def _prepare(self, made: Sequence[int]) -> None:
        pipe = self.pipe
        fd = made[-1]
        if not pipe.path:
            os.fchown(fd, pipe.uid, pipe.gid)
        if fcntl.fcntl(fd, F_GETPIPE_SZ) != pipe.capacity:
            fcntl.fcntl(fd, F_SETPIPE_SZ, pipe.capacity)
        if pipe.chunks:
            set_status_flags(fd, os.O_NONBLOCK | (os.O_DIRECT if pipe.is_packets else 0))
            for chunk in pipe.chunks:
                if os.write(fd, chunk) != len(chunk):
                    raise OSError(errno.ENOSPC, "the data does not fit into the pipe again")
            set_status_flags(fd, 0)

    def _open_ends(self, restorer: Restorer, made: list[int]) -> None:
        """Hand out the ends that pipe2 made; open the others: FIFOs, both ends, second openings."""
        spare = {} if self.pipe.path else {os.O_RDONLY: made[0], os.O_WRONLY: made[1]}
        for end in self.ends:
            mode = end.flags & os.O_ACCMODE
            # Only open(2) sets O_LARGEFILE, so an end without it is one that pipe2 made.
            own = None if end.flags & O_LARGEFILE else spare.pop(mode, None)
            fd = reopen(made[-1], mode | os.O_NONBLOCK) if own is None else os.dup(own)
            keep(restorer, end.ref, fd)
            set_status_flags(fd, end.flags)


def _open_fifo(path: bytes) -> int:
    """Open both ends at once, which waits for nobody."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise RestoreError("is no FIFO any more", where=printable(path))
    return fd

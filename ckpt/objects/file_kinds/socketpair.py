"""Connected unix socket pairs, stream, dgram and seqpacket, with both ends inside and their data.

The data is looked at with MSG_PEEK and a moving peek offset, which is put back; nothing is taken.
An end whose peer has been closed comes back the same way. Descriptors under way in messages are
refused. The task itself makes the pair, so that SO_PEERCRED names it; ckpt-bpf then fills it
through its own copies. An empty datagram that an earlier snapshot has looked at is not seen again.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from functools import cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from ckpt.errors import Finding
from ckpt.host.facts import S32, U32
from ckpt.host.syscalls import pidfd_getfd
from ckpt.objects.base import Plain
from ckpt.objects.file_kinds.common import (
    FileRecord,
    OpenFile,
    Opening,
    Table,
    find_leak,
    keep,
    set_status_flags,
)
from ckpt.objects.file_kinds.unix_peers import (
    TCP_LISTEN,
    UnixSocket,
    copy_socket,
    unix_sockets,
)
from ckpt.objects.passing import close_call
from ckpt.objects.steps import Call, Expect, Scratch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckpt.objects.base import Builder, Records, Restorer

SYS_SOCKETPAIR, SYS_SETRESUID, SYS_SETRESGID, SYS_EVENTFD2 = 53, 117, 119, 290
SO_PEEK_OFF: Final = 42
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
SO_LINGER, SO_RCVTIMEO, SO_SNDTIMEO = 13, 20, 21
SO_PASSCRED, SO_PASSSEC = 16, 34
"""`include/uapi/asm-generic/socket.h`, 6.18."""
MSG_LOOK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT
UNCHANGED: Final = 0xFFFFFFFF
_LARGEST_MESSAGE: Final = 1 << 20
_UCRED: Final = struct.Struct("<iII")
_FORCED: Final = {socket.SO_SNDBUF: SO_SNDBUFFORCE, socket.SO_RCVBUF: SO_RCVBUFFORCE}
_OPTIONS: Final = (
    *(socket.SO_SNDBUF, socket.SO_RCVBUF, 18, SO_PASSSEC, SO_PEEK_OFF),
    *(2, 6, 9, 10, 12, 16, 29, 35, 37, 36, 44, 46, 75, 76, 82, 83),
)
"""Options of type int that a unix socket keeps: sizes first; then SO_REUSEADDR, SO_BROADCAST,
SO_KEEPALIVE, SO_OOBINLINE, SO_PRIORITY, SO_PASSCRED, SO_TIMESTAMP, SO_TIMESTAMPNS, SO_TIMESTAMPING,
SO_MARK, SO_LOCK_FILTER, SO_BUSY_POLL, SO_RCVMARK, SO_PASSPIDFD, SO_RCVPRIORITY, SO_PASSRIGHTS."""
_STRUCTS: Final = {SO_LINGER: 8, SO_RCVTIMEO: 16, SO_SNDTIMEO: 16}
"""Options that are a struct linger or timeval, with their sizes."""


class Message(Plain, frozen=True):
    """One message, or one run of stream bytes of the same sender."""

    data: bytes
    sender: tuple[S32, U32, U32] | None
    """pid, uid, gid as SCM_CREDENTIALS shows them, where the receiver asked for them."""


class SocketFile(FileRecord, tag="file.socketpair", frozen=True, kw_only=True):
    """One end of a pair."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()
    kind: Annotated[int, msgspec.Meta(ge=1, le=5)]
    """SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET."""
    peer: int
    """Objref of the other end; 0: it has been closed."""
    received: list[Message]
    """What waits to be received by this end."""
    shutdown: Annotated[int, msgspec.Meta(ge=0, le=3)]
    """Bit 0: receives nothing more, bit 1: sends nothing more."""
    options: list[tuple[U32, S32]]
    """(SO_* of type int, value), where it is not what a fresh pair has."""
    structs: list[tuple[U32, bytes]]
    """SO_LINGER, SO_RCVTIMEO, SO_SNDTIMEO, likewise."""
    peer_uid: U32
    peer_gid: U32


RECORDS = (SocketFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is an unnamed, connected unix socket whose peer is inside, or closed."""
    if not file.is_socket:
        return False
    found = unix_sockets(table).get(file.view.ino)
    if found is None or found.is_named or found.peer is None or found.state == TCP_LISTEN:
        return False
    return not found.peer or _find_peer(found, table) is not None


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse ends that somebody else has too, and descriptors under way."""
    for file in files:
        yield from find_leak(file, table)
        # Only once a snapshot: a second look no longer sees empty datagrams.
        if table.process.is_frozen:
            try:
                table.kept[_queue_name(file)] = _read_queue_of(file, table)
            except _NotPlainError as error:
                hint = "let the program receive them first"
                yield Finding(table.where(file), f"{table.describe(file)}: {error}", hint)


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[SocketFile]:
    """Record options and queue of each end."""
    sockets = unix_sockets(table)
    for file in files:
        received = table.kept.get(_queue_name(file))
        if not isinstance(received, list):
            continue  # refused by survey
        with copy_socket(file, table) as end:
            yield _record_end(file, sockets[file.view.ino], received, end, table)


def _record_end(
    file: OpenFile,
    found: UnixSocket,
    received: list[Message],
    end: socket.socket,
    table: Table,
) -> SocketFile:
    level = socket.SOL_SOCKET
    _, uid, gid = _UCRED.unpack(end.getsockopt(level, socket.SO_PEERCRED, _UCRED.size))
    peer = _find_peer(found, table)
    ref, flags, owner = file.common()
    return SocketFile(
        ref=ref,
        flags=flags,
        owner=owner,
        kind=found.kind,
        peer=peer.ref if peer else 0,
        received=received,
        shutdown=found.shutdown,
        options=_differing(_read_options(end), found.kind),
        structs=_read_structs(end),
        peer_uid=uid,
        peer_gid=gid,
    )


def _read_options(end: socket.socket) -> dict[int, int]:
    options = {}
    for option in _OPTIONS:
        try:
            options[option] = end.getsockopt(socket.SOL_SOCKET, option)
        except OSError:
            continue  # This kernel does not know it.
    return options


@cache
def _fresh_options(kind: int) -> dict[int, int]:
    ends = socket.socketpair(socket.AF_UNIX, kind)
    try:
        return _read_options(ends[0])
    finally:
        for end in ends:
            end.close()


def _differing(options: dict[int, int], kind: int) -> list[tuple[int, int]]:
    fresh = _fresh_options(kind)
    # Sizes are recorded always: another machine has other defaults.
    return [
        (option, value)
        for option, value in options.items()
        if value != fresh.get(option) or option in _FORCED
    ]


def _read_structs(end: socket.socket) -> list[tuple[int, bytes]]:
    found = [
        (option, end.getsockopt(socket.SOL_SOCKET, option, size))
        for option, size in _STRUCTS.items()
    ]
    return [(option, value) for option, value in found if any(value)]


def _queue_name(file: OpenFile) -> str:
    return f"queue:{file.ref}"


def _find_peer(found: UnixSocket, table: Table) -> OpenFile | None:
    ends = table.kept.get("sockets")
    if not isinstance(ends, dict):
        ends = {file.view.ino: file for file in table.files if file.is_socket}
        table.kept["sockets"] = ends
    return ends.get(found.peer) if found.peer else None


class _NotPlainError(Exception):
    """The queue holds more than bytes; the text says what."""


def _read_queue_of(file: OpenFile, table: Table) -> list[Message]:
    """Return what waits at an end, leaving it there."""
    with copy_socket(file, table) as end:
        before = end.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        end.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
        try:
            return list(_peek_all(end))
        finally:
            end.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, before)


def _peek_all(end: socket.socket) -> Iterator[Message]:
    asks = end.getsockopt(socket.SOL_SOCKET, SO_PASSCRED)
    room = socket.CMSG_SPACE(_UCRED.size) if asks else 0
    is_stream = end.type == socket.SOCK_STREAM
    while True:
        try:
            data, extras, flags, _ = end.recvmsg(_LARGEST_MESSAGE, room, MSG_LOOK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.ECONNRESET, errno.ENOTCONN):
                return
            raise
        if flags & socket.MSG_CTRUNC:
            raise _NotPlainError("descriptors are under way in its messages")
        if flags & socket.MSG_TRUNC:
            raise _NotPlainError(f"a message of more than {_LARGEST_MESSAGE} bytes")
        if not data and (is_stream or _is_at_end(end)):
            return
        senders = [_UCRED.unpack(value) for _, kind, value in extras if kind == 2]
        yield Message(data, senders[0] if senders else None)


def _is_at_end(end: socket.socket) -> bool:
    """Tell an empty message from "the other end is closed", which looks the same."""
    import select

    poller = select.poll()
    poller.register(end, select.POLLRDHUP)
    return any(events & (select.POLLRDHUP | select.POLLHUP) for _, events in poller.poll(0))


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Make each pair once."""
    for record in records.of(SocketFile):
        unknown = {option for option, _ in record.options} - set(_OPTIONS)
        unknown |= {
            option for option, value in record.structs if len(value) != _STRUCTS.get(option)
        }
        if unknown:
            build.refuse(f"socket {record.ref}", f"options {sorted(unknown)} are not known")
    ends = {record.ref: record for record in records.of(SocketFile)}
    done: set[int] = set()
    for ref, end in ends.items():
        if ref in done:
            continue
        peer = ends.get(end.peer)
        refs = (ref, peer.ref) if peer else (ref,)
        done.update(refs)
        yield Opening(refs, MakePair(end, peer))


class MakePair:
    """Let the task make a pair; set its options and fill it."""

    def __init__(self, first: SocketFile, second: SocketFile | None) -> None:
        self.first = first
        self.second = second

    def perform(self, restorer: Restorer) -> None:
        """Fill while both ends are open and large, then give each its own options."""
        fds = make_in_task(restorer, self.first)
        ends = [socket.socket(fileno=fd) for fd in fds]
        try:
            for end, other, record in self._sides(ends):
                _fill(end, other, record)
            for end, _, record in self._sides(ends):
                _set_options(end, record)
            for end, _, record in self._sides(ends):
                fd = os.dup(end.fileno())
                keep(restorer, record.ref, fd)
                set_status_flags(fd, record.flags)
        finally:
            for end in ends:
                end.close()

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        kind = socket.SocketKind(self.first.kind).name
        waiting = [
            sum(len(message.data) for message in end.received) if end else 0
            for end in (self.first, self.second)
        ]
        closed = "" if self.second else ", one end closed"
        return f"make a {kind} pair with {waiting[0]} and {waiting[1]} bytes waiting{closed}"

    def _sides(
        self, ends: Sequence[socket.socket]
    ) -> Iterator[tuple[socket.socket, socket.socket, SocketFile]]:
        yield ends[0], ends[1], self.first
        if self.second:
            yield ends[1], ends[0], self.second


def make_in_task(restorer: Restorer, record: SocketFile) -> list[int]:
    """Return our copies of a pair that the root task made with the recorded credentials."""
    tid = restorer.root_tid
    uid, gid = record.peer_uid, record.peer_gid
    calls = [Call(SYS_SOCKETPAIR, (socket.AF_UNIX, record.kind, 0, Scratch(8)))]
    if uid or gid:
        become = [
            Call(SYS_SETRESGID, (UNCHANGED, gid, UNCHANGED)),
            Call(SYS_SETRESUID, (UNCHANGED, uid, UNCHANGED)),
        ]
        back = [
            Call(SYS_SETRESUID, (UNCHANGED, 0, UNCHANGED)),
            Call(SYS_SETRESGID, (UNCHANGED, 0, UNCHANGED)),
        ]
        calls = [*become, *calls, *back]
    # The numbers that socketpair will give are those that two other new files get before it.
    made = restorer.play(tid, [Call(SYS_EVENTFD2, (0, 0), expect=Expect.NOT_NEGATIVE)] * 2)
    closing = [close_call(number) for number in made]
    restorer.play(tid, [*closing, *calls])
    pidfd = os.pidfd_open(tid)
    try:
        return [pidfd_getfd(pidfd, number) for number in made]
    finally:
        os.close(pidfd)
        restorer.play(tid, closing)


def _fill(end: socket.socket, other: socket.socket, record: SocketFile) -> None:
    """Send from `other` what waits at `end`."""
    if not record.received:
        return
    if (SO_PASSCRED, 1) in record.options:
        end.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
    size = sum(len(message.data) + 1024 for message in record.received)
    other.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * size)
    for message in record.received:
        extras = []
        if message.sender:
            extras = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, _UCRED.pack(*message.sender))]
        sent = other.sendmsg([message.data], extras, socket.MSG_DONTWAIT)
        if sent != len(message.data):
            raise OSError(errno.ENOSPC, "the data does not fit into the socket again")


def _set_options(end: socket.socket, record: SocketFile) -> None:
    """Give an end its recorded options; the kernel doubles what it is told about buffers."""
    level = socket.SOL_SOCKET
    for option, wanted in record.options:
        if end.getsockopt(level, option) != wanted:
            forced = _FORCED.get(option)
            end.setsockopt(level, forced or option, wanted // 2 if forced else wanted)
    for option, value in record.structs:
        end.setsockopt(level, option, value)
    ways = {1: socket.SHUT_RD, 2: socket.SHUT_WR, 3: socket.SHUT_RDWR}
    if record.shutdown and record.peer:
        end.shutdown(ways[record.shutdown & 3])

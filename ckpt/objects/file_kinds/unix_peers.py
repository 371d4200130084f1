"""Unix sockets and their peers, as the kernel's sock_diag tells them.

A connected pair names each other by inode number. `UnixSocket` is what one request per network
namespace yields for each socket; sockets of other families are told apart by getsockopt.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.objects.file_kinds.common import OpenFile, Table

# include/uapi/linux/netlink.h, sock_diag.h, unix_diag.h, 6.18
_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_UDIAG_SHOW_NAME, _UDIAG_SHOW_PEER, _UDIAG_SHOW_RQLEN = 0x1, 0x4, 0x10
_UNIX_DIAG_NAME, _UNIX_DIAG_PEER, _UNIX_DIAG_RQLEN, _UNIX_DIAG_SHUTDOWN = 0, 2, 4, 6
_HEADER: Final = struct.Struct("<IHHII")
_REQUEST: Final = struct.Struct("<BBHIIIII")
_MESSAGE: Final = struct.Struct("<BBBxI2I")
_ATTRIBUTE: Final = struct.Struct("<HH")
TCP_LISTEN: Final = 10


class UnixSocket(NamedTuple):
    """One struct unix_sock."""

    kind: int
    """SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET."""
    state: int
    """TCP_ESTABLISHED 1, TCP_CLOSE 7, TCP_LISTEN 10."""
    ino: int
    peer: int | None
    """Inode of the peer: 0 when that has been closed, None when there never was one."""
    is_named: bool
    shutdown: int
    """Bit 0: receives nothing more, bit 1: sends nothing more."""


def copy_socket(file: OpenFile, table: Table) -> socket.socket:
    """Return our own copy of a socket.

    Raises:
        OSError: the number is closed, or no socket any more (the target runs).
    """
    copy = table.copy(file)
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise


def unix_sockets(table: Table) -> dict[int, UnixSocket]:
    """Return the unix sockets of our network namespace by inode, asked once a table."""
    known = table.kept.get("unix")
    if not isinstance(known, dict):
        known = table.kept["unix"] = {found.ino: found for found in read_unix_sockets()}
    return known


def has_peer_inside(file: OpenFile, table: Table) -> bool:
    """Tell whether a socket is a unix one whose peer the same table has open."""
    found = unix_sockets(table).get(file.view.ino)
    if found is None or not found.peer:
        return False
    return any(other.is_socket and other.view.ino == found.peer for other in table.files)


def read_unix_sockets() -> Iterator[UnixSocket]:
    """Ask the kernel for every unix socket of our network namespace.

    Raises:
        HostError: the kernel does not answer (CONFIG_UNIX_DIAG).
    """
    show = _UDIAG_SHOW_NAME | _UDIAG_SHOW_PEER | _UDIAG_SHOW_RQLEN
    request = _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, show, 0xFFFFFFFF, 0xFFFFFFFF)
    size = _HEADER.size + len(request)
    head = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
        link.send(head + request)
        while True:
            answer = link.recv(1 << 18)
            for kind, payload in _messages(answer):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("<i", payload)[0]
                    raise HostError("unix sockets cannot be listed (sock_diag)", errno=number)
                yield parse_unix_socket(payload)


def _messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(answer):
        size, kind, *_ = _HEADER.unpack_from(answer, at)
        yield kind, answer[at + _HEADER.size : at + size]
        at += max((size + 3) & ~3, _HEADER.size)


def parse_unix_socket(payload: bytes) -> UnixSocket:
    """Decode one struct unix_diag_msg with its attributes."""
    _, kind, state, ino, *_ = _MESSAGE.unpack_from(payload)
    peer: int | None = None
    is_named, shutdown = False, 0
    at = _MESSAGE.size
    while at + _ATTRIBUTE.size <= len(payload):
        size, attribute = _ATTRIBUTE.unpack_from(payload, at)
        value = payload[at + _ATTRIBUTE.size : at + size]
        if attribute == _UNIX_DIAG_PEER:
            (peer,) = struct.unpack_from("<I", value)
        elif attribute == _UNIX_DIAG_NAME:
            is_named = bool(value)
        elif attribute == _UNIX_DIAG_SHUTDOWN:
            shutdown = value[0]
        at += max((size + 3) & ~3, _ATTRIBUTE.size)
    return UnixSocket(kind, state, ino, peer, is_named, shutdown)

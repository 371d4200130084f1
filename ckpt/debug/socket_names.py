"""Sockets as text: family, type, addresses, and what is known of the other end."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_TYPES: Final = {1: "stream", 2: "dgram", 3: "raw", 5: "seqpacket"}
_FAMILIES: Final = {16: "netlink", 17: "packet", 38: "alg", 40: "vsock"}
_SO_PEERCRED_BYTES: Final = 12


def describe_socket(copy: int, link: str) -> str:
    """Describe the socket open as `copy`, and close that; `link` is its name in /proc.

    The text holds what the addresses hold: escape it.
    """
    with socket.socket(fileno=copy) as found:
        return _describe(found, link)


def _describe(found: socket.socket, link: str) -> str:
    kind = _TYPES.get(int(found.type), str(int(found.type)))
    if found.family in (socket.AF_INET, socket.AF_INET6):
        return _describe_inet(found)
    if found.family == socket.AF_UNIX:
        return _describe_unix(found, kind, link)
    name = _FAMILIES.get(int(found.family), f"family {int(found.family)}")
    own = _address(found, found.getsockname)
    return f"{name} {kind} {own}".rstrip()


def _describe_inet(found: socket.socket) -> str:
    names = {socket.SOCK_STREAM: "TCP", socket.SOCK_DGRAM: "UDP", socket.SOCK_RAW: "RAW"}
    own, peer = _address(found, found.getsockname), _address(found, found.getpeername)
    name = names.get(found.type, "inet")
    if found.family == socket.AF_INET6:
        name += "6"
    if peer:
        return f"{name} {own} -> {peer}"
    is_listening = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    return f"{name} {own}{' listening' if is_listening else ' not connected'}"


def _describe_unix(found: socket.socket, kind: str, link: str) -> str:
    own, peer = _address(found, found.getsockname), _address(found, found.getpeername)
    parts = [f"unix {kind}", own or link.removeprefix("socket:")]
    if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return " ".join([*parts, "listening"])
    credentials = b""
    with contextlib.suppress(OSError):
        credentials = found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED_BYTES)
    pid = int.from_bytes(credentials[:4], "little")
    if peer or pid:
        parts += ["->", *([peer] if peer else []), *([f"made by pid {pid}"] if pid else [])]
    return " ".join(parts)


def _address(found: socket.socket, ask: Callable[[], Any]) -> str:
    """Return a socket's own or its peer's address; empty: it has none."""
    try:
        address = ask()
    except OSError:
        return ""
    if isinstance(address, bytes):
        return (
            "@" + address[1:].decode("utf-8", "surrogateescape")
            if address[:1] == b"\0"
            else (address.decode("utf-8", "surrogateescape"))
        )
    if isinstance(address, str):
        return address
    if found.family == socket.AF_INET:
        return f"{address[0]}:{address[1]}"
    if found.family == socket.AF_INET6:
        return f"[{address[0]}]:{address[1]}"
    return str(address)

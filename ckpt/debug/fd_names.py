"""What a descriptor of a live process is, as text: a path, a socket with its addresses, and so on.

Like strace's `-yy`: `3</etc/hosts>`, `4<TCP 127.0.0.1:80 -> 127.0.0.1:4021>`. Sockets are asked
through a copy of the descriptor (pidfd_getfd), held only for the question; everything else is
/proc. Nothing raises: what cannot be known is left out.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from ckpt.debug.text import escape, shorten
from ckpt.host.syscalls import pidfd_getfd

if TYPE_CHECKING:
    from typing import Self

_MAX_NAME: Final = 200
_MAX_WATCHED: Final = 8
_MAX_FDINFO_BYTES: Final = 1 << 16
_AT_FDCWD: Final = -100
_SOCKET: Final = "socket:["


class FdNames:
    """Names of the descriptors of one thread. Use as a context manager."""

    def __init__(self, tgid: int, tid: int) -> None:
        self._folder = f"/proc/{tgid}/task/{tid}"
        self._known: dict[int, str] = {}
        self._pidfd = -1
        with contextlib.suppress(OSError):
            self._pidfd = os.pidfd_open(tgid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def name(self, value: int) -> str:
        """Return a descriptor as safe text, `3</etc/hosts>`; -1 and its like as they are."""
        fd = _as_int(value)
        if fd == _AT_FDCWD:
            return "AT_FDCWD"
        if fd < 0:
            return str(fd)
        if fd not in self._known:
            self._known[fd] = self._find(fd)
        what = self._known[fd]
        return f"{fd}<{what}>" if what else f"{fd}<not open>" if what == "" else str(fd)

    def _find(self, fd: int, *, nested: bool = False) -> str:
        try:
            link = os.readlink(f"{self._folder}/fd/{fd}")
        except FileNotFoundError:
            return ""
        except OSError:
            return "not allowed to look"
        if link.startswith(_SOCKET):
            return escape(self._describe_socket(fd, link))
        text = shorten(link, _MAX_NAME)
        if nested or not link.startswith("anon_inode:"):
            return text
        more = self._describe_anonymous(fd, link)
        return f"{text} {more}" if more else text

    def _describe_socket(self, fd: int, link: str) -> str:
        try:
            copy = pidfd_getfd(self._pidfd, fd)
        except OSError:
            return link
        # A thread may have a table of its own; the copy is from the leader's.
        if f"{_SOCKET}{os.fstat(copy).st_ino}]" != link:
            os.close(copy)
            return link
        from ckpt.debug.socket_names import describe_socket

        return describe_socket(copy, link)

    def _describe_anonymous(self, fd: int, link: str) -> str:
        """Say what fdinfo has to say that helps somebody who finds a thread waiting there."""
        try:
            info_fd = os.open(f"{self._folder}/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return ""
        try:
            lines = os.read(info_fd, _MAX_FDINFO_BYTES).decode("ascii", "replace").splitlines()
        except OSError:
            return ""
        finally:
            os.close(info_fd)
        if "eventpoll" in link:
            return self._describe_watches(lines)
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        shown = {"eventfd-count": "count", "it_value": "left", "Pid": "pid", "sigmask": "mask"}
        found = [f"{word}{fields[name]}" for name, word in shown.items() if name in fields]
        return escape(", ".join(" ".join(part.split()) for part in found))

    def _describe_watches(self, lines: list[str]) -> str:
        numbers = [int(line.split()[1]) for line in lines if line.startswith("tfd:")]
        names = [f"{fd}<{self._find(fd, nested=True)}>" for fd in numbers[:_MAX_WATCHED]]
        if len(numbers) > len(names):
            names.append(f"{len(numbers) - len(names)} more")
        return f"watches {', '.join(names)}" if names else "watches nothing"


def _as_int(value: int) -> int:
    """Return an argument as the kernel takes a descriptor: 32 bits, signed."""
    return (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000

"""Copies a finished spool to a stream whose reader may be slow, and never waits without limit.

The stream's description may be shared with other programs (a shell's standard output), so
O_NONBLOCK is never set on it: each way of writing here asks for no blocking call by call.
"""

from __future__ import annotations

import os
import select
import stat
from typing import TYPE_CHECKING, Final

from ckpt.errors import ImageWriteError
from ckpt.image.errors import ImageStalledError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt.image.output import Progress

    Send = Callable[[int, int, int, int], int]
    """(spool fd, stream fd, offset, bytes left) -> bytes taken; BlockingIOError when full."""

_CHUNK: Final = 1 << 20


def copy_to_stream(
    spool_fd: int, stream_fd: int, stall_timeout_s: float, progress: Progress | None
) -> None:
    """Copy all of `spool_fd` to `stream_fd`.

    Raises ImageStalledError after `stall_timeout_s` in which the reader took nothing, and
    ImageWriteError for anything else (EPIPE: the reader is gone).
    """
    total = os.fstat(spool_fd).st_size
    send = _choose_send(os.fstat(stream_fd).st_mode)
    done = 0
    while done < total:
        _wait_writable(stream_fd, stall_timeout_s, done, total)
        try:
            done += send(spool_fd, stream_fd, done, total - done)
        except BlockingIOError:
            continue
        except OSError as error:
            raise ImageWriteError("cannot write", path="-", errno=error.errno) from error
        # Outside the try: what a progress callback raises is not ours to translate.
        if progress:
            progress(done, total)


def _choose_send(mode: int) -> Send:
    if stat.S_ISFIFO(mode):
        return _splice
    if stat.S_ISSOCK(mode):
        return _send_socket
    return _write if stat.S_ISCHR(mode) else _sendfile


def _wait_writable(stream_fd: int, timeout_s: float, done: int, total: int) -> None:
    poller = select.poll()
    poller.register(stream_fd, select.POLLOUT)
    if not poller.poll(timeout_s * 1000):
        what = f"reader took nothing for {timeout_s:g} s, {done} of {total} bytes are written"
        raise ImageStalledError(what, path="-", hint="read faster, or write to a file")


def _splice(spool_fd: int, stream_fd: int, offset: int, left: int) -> int:
    count = min(left, _CHUNK)
    taken = os.splice(spool_fd, stream_fd, count, offset_src=offset, flags=os.SPLICE_F_NONBLOCK)
    return _not_empty(taken)


def _sendfile(spool_fd: int, stream_fd: int, offset: int, left: int) -> int:
    return _not_empty(os.sendfile(stream_fd, spool_fd, offset, min(left, _CHUNK)))


def _send_socket(spool_fd: int, stream_fd: int, offset: int, left: int) -> int:
    import socket

    data = os.pread(spool_fd, min(left, _CHUNK), offset)
    with socket.socket(fileno=os.dup(stream_fd)) as stream:
        return stream.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _write(spool_fd: int, stream_fd: int, offset: int, left: int) -> int:
    # A device that polls writable takes a page without blocking for long.
    return os.write(stream_fd, os.pread(spool_fd, min(left, 4096), offset))


def _not_empty(taken: int) -> int:
    # Our own spool has ended early: somebody else truncated it, or a bug of ours.
    if taken == 0:
        raise ImageWriteError("spool file is shorter than it was", path="-")
    return taken

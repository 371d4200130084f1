"""Opens image files and reads from them: who may be trusted, pipes, bounded reads."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from ckpt.errors import ImageError, ImageUntrustedError
from ckpt.image.errors import ImageCorruptError, ImageIncompleteError
from ckpt.image.format import FRAME, FrameType
from ckpt.image.output import open_spool
from ckpt.image.sink import write_all

if TYPE_CHECKING:
    from ckpt.image.output import Progress

_WINDOW_BYTES: Final = 256 << 10
_COPY_BYTES: Final = 1 << 20

MAX_HOLE_BYTES: Final = 64 << 30
MAX_HOLE_RATIO: Final = 64
"""A file may claim so much more than the disk holds of it: reading holes takes time as well."""


class Source:
    """An image file opened for reading; reads are exact, or raise ImageError."""

    def __init__(self, fd: int, path: str) -> None:
        """Take over `fd`, a regular file."""
        self.fd = fd
        self.path = path
        self.status = os.fstat(fd)
        self.size = self.status.st_size
        self._window = memoryview(b"")
        self._window_offset = 0

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def read(self, offset: int, length: int) -> memoryview:
        """Return exactly these bytes; the caller has checked `length` against a limit.

        Small reads come out of a window that moves forward with them.
        """
        if offset + length > self.size:
            raise ImageIncompleteError("file ends too early", path=self.path, offset=self.size)
        start = offset - self._window_offset
        if not (start >= 0 and start + length <= len(self._window)):
            if length > _WINDOW_BYTES:
                return self._read_exactly(offset, length)
            self._window = self._read_exactly(offset, min(_WINDOW_BYTES, self.size - offset))
            self._window_offset, start = offset, 0
        return self._window[start : start + length]

    def _read_exactly(self, offset: int, length: int) -> memoryview:
        data = memoryview(bytearray(length))
        rest = data
        try:
            while rest:
                got = os.preadv(self.fd, [rest], offset)
                if got == 0:
                    what = "file became shorter while it was read"
                    raise ImageIncompleteError(what, path=self.path, offset=offset)
                rest, offset = rest[got:], offset + got
        except OSError as error:
            what = "cannot read"
            raise ImageError(what, path=self.path, offset=offset, errno=error.errno) from error
        return data.toreadonly()


def open_source(
    path: str | int, trusted_uid: int | None = None, progress: Progress | None = None
) -> Source:
    """Open the image at `path`; `-` is standard input, a number is a descriptor that stays open.

    A pipe or socket is copied into an unlinked temporary file first. With `trusted_uid` the very
    file that was opened must pass `check_trust`. Raises ImageError.
    """
    name = path if isinstance(path, str) else f"fd {path}"
    fd = _open_fd(path, name)
    try:
        status = os.fstat(fd)
        if trusted_uid is not None:
            check_trust(status, trusted_uid, name)
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            spool_fd = _spool(fd, name, progress)
            os.close(fd)
            fd = spool_fd
        elif not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file", path=name)
        source = Source(fd, name)
        _check_size(source)
    except BaseException:
        os.close(fd)
        raise
    return source


def _open_fd(path: str | int, name: str) -> int:
    try:
        if path == "-":
            return os.dup(0)
        if isinstance(path, int):
            return os.dup(path)
        # Not blocking: opening a FIFO that nobody writes must not hang.
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        # ValueError: a path with a NUL in it.
        raise ImageError("cannot open", path=name, errno=getattr(error, "errno", 0)) from error


def check_trust(status: os.stat_result, invoking_uid: int, path: str = "") -> None:
    """Raise ImageUntrustedError unless only root or `invoking_uid` can have written the file.

    Restoring an image runs what it holds, with the credentials that it names.
    """
    hint = "look at it with `ckpt-bpf show`, then restore with --trust-image"
    if status.st_uid not in (0, invoking_uid):
        what = f"owned by uid {status.st_uid}, not by root or uid {invoking_uid}"
        raise ImageUntrustedError(what, path=path, hint=hint)
    if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"mode {stat.S_IMODE(status.st_mode):04o} lets others write it"
        raise ImageUntrustedError(what, path=path, hint=hint)


def invoking_uid() -> int:
    """Return the uid of the user who runs us: the one behind sudo, if there is one."""
    uid = os.getuid()
    sudo_uid = os.environ.get("SUDO_UID", "")
    return int(sudo_uid) if uid == 0 and sudo_uid.isascii() and sudo_uid.isdigit() else uid


def _spool(fd: int, name: str, progress: Progress | None) -> int:
    os.set_blocking(fd, True)
    spool_fd = open_spool()
    done = 0
    try:
        while chunk := _read_chunk(fd, name):
            if done == 0:
                _check_first_bytes(chunk, name)
            write_all(spool_fd, chunk, done, "temporary file")
            done += len(chunk)
            if progress:
                progress(done, 0)
    except BaseException:
        os.close(spool_fd)
        raise
    return spool_fd


def _read_chunk(fd: int, name: str) -> bytes:
    try:
        return os.read(fd, _COPY_BYTES)
    except OSError as error:
        raise ImageError("cannot read", path=name, errno=error.errno) from error


def _check_first_bytes(chunk: bytes, name: str) -> None:
    # Whatever else somebody pipes into us must not fill the disk first.
    known = (FrameType.HEADER, FrameType.ERROR)
    if len(chunk) >= FRAME.size and int.from_bytes(chunk[:4], "little") not in known:
        raise ImageCorruptError("not a ckpt-bpf image", path=name, offset=0)


def _check_size(source: Source) -> None:
    if source.size == 0:
        raise ImageIncompleteError("empty file, not an image", path=source.path)
    stored = source.status.st_blocks * 512
    if source.size > MAX_HOLE_BYTES + MAX_HOLE_RATIO * stored:
        what = f"{source.size} bytes long, but the disk holds only {stored} of them"
        raise ImageCorruptError(what, path=source.path)

"""Where an image goes: a file that appears when it is complete, or a stream behind a spool.

Both give a seekable descriptor to write to. `publish` makes what was written visible, `discard`
leaves no trace; a SIGKILL at any moment leaves nothing under the final name.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from ckpt.errors import ImageWriteError

if TYPE_CHECKING:
    from collections.abc import Callable

    Progress = Callable[[int, int], object]
    """Called with (bytes done, bytes in all) now and then; what it raises aborts the work."""

_FILE_MODE: Final = 0o600
_NO_TMPFILE: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT})
"""What open(O_TMPFILE) says on a filesystem or kernel without it; see open(2)."""


class Output(Protocol):
    """A destination of an image."""

    path: str
    """For messages."""
    fd: int
    is_durable: bool
    """Whether what is published must be on disk by then."""

    def publish(self, progress: Progress | None) -> None:
        """Make the image in `fd` visible, durably where that means something."""

    def discard(self) -> None:
        """Close everything and leave nothing behind. May be called at any time, and twice."""


class FileOutput:
    """An image file: unnamed until it is complete, then renamed over its final name."""

    is_durable = True

    def __init__(self, path: str) -> None:
        """Open an unnamed file in the folder of `path`.

        Raises ImageWriteError; an existing image under `path` stays as it is until `publish`.
        """
        self.path = path
        self.fd = -1
        self._folder_fd = -1
        self._temporary = ""
        folder, self._name = os.path.split(path)
        try:
            self._folder_fd = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._check_target()
            self.fd = self._open_unnamed()
            # The umask may have taken bits away; nothing may add any.
            os.fchmod(self.fd, _FILE_MODE)
        except OSError as error:
            self.discard()
            raise ImageWriteError("cannot create", path=path, errno=error.errno) from error
        except ImageWriteError:
            self.discard()
            raise

    def _check_target(self) -> None:
        # A rename would replace a device node or a symbolic link itself, which nobody wants.
        if not self._name or self._name in (".", ".."):
            raise ImageWriteError("is a folder", path=self.path, hint="name a file in it")
        try:
            mode = os.lstat(self._name, dir_fd=self._folder_fd).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISREG(mode):
            hint = "name a file that does not exist, or write to a pipe with `-o -`"
            raise ImageWriteError("exists and is not a regular file", path=self.path, hint=hint)

    def _open_unnamed(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            return os.open(".", flags | os.O_TMPFILE, _FILE_MODE, dir_fd=self._folder_fd)
        except OSError as error:
            if error.errno not in _NO_TMPFILE:
                raise
        self._temporary = _temporary_name()
        flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(self._temporary, flags, _FILE_MODE, dir_fd=self._folder_fd)

    def publish(self, progress: Progress | None) -> None:  # noqa: ARG002  (one act, no progress)
        """Flush the file to disk, give it its final name, flush the folder."""
        try:
            os.fsync(self.fd)
            self._take_name()
            self._flush_name()
        except OSError as error:
            raise ImageWriteError("cannot write", path=self.path, errno=error.errno) from error
        self._close()

    def _take_name(self) -> None:
        if not self._temporary:
            try:
                self._link(self._name)
            except FileExistsError:
                # linkat cannot replace: take a name beside it first.
                temporary = _temporary_name()
                self._link(temporary)
                self._temporary = temporary
            else:
                return
        os.rename(
            self._temporary, self._name, src_dir_fd=self._folder_fd, dst_dir_fd=self._folder_fd
        )
        self._temporary = ""

    def _flush_name(self) -> None:
        try:
            os.fsync(self._folder_fd)
        except OSError:
            # The caller will keep the target running: then there must be no image of it.
            os.unlink(self._name, dir_fd=self._folder_fd)
            raise

    def _link(self, name: str) -> None:
        # With a dir_fd Python calls linkat(AT_SYMLINK_FOLLOW), which /proc/self/fd needs.
        folder_fd = self._folder_fd
        os.link(f"/proc/self/fd/{self.fd}", name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)

    def discard(self) -> None:
        """Close the file, which ends it unless it was published."""
        if self._temporary:
            with suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._folder_fd)
            self._temporary = ""
        self._close()

    def _close(self) -> None:
        for fd in (self.fd, self._folder_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._folder_fd = -1


class StreamOutput:
    """A pipe, socket or other descriptor: everything is spooled, and copied by `publish`.

    So the target never waits for a reader while its memory is read, and the writer can seek.
    """

    path = "-"
    is_durable = False

    def __init__(self, stream_fd: int, stall_timeout_s: float) -> None:
        """Spool for `stream_fd`, which stays open and the caller's."""
        self.fd = open_spool()
        self._stream_fd = stream_fd
        self._stall_timeout_s = stall_timeout_s

    def publish(self, progress: Progress | None) -> None:
        """Copy the spool to the stream; ImageStalledError when the reader stops reading."""
        from ckpt.image.stream import copy_to_stream

        copy_to_stream(self.fd, self._stream_fd, self._stall_timeout_s, progress)
        self.discard()

    def discard(self) -> None:
        """Close the spool, which ends it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def open_spool() -> int:
    """Open an unlinked temporary file, readable and writable, mode 0600.

    In `TMPDIR`, else /var/tmp (on disk: a spool is as large as the target's memory).
    """
    folder = os.environ.get("TMPDIR") or "/var/tmp"
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        try:
            return os.open(folder, flags | os.O_TMPFILE | os.O_EXCL, _FILE_MODE)
        except OSError as error:
            if error.errno not in _NO_TMPFILE or not os.path.isdir(folder):
                raise
        name = os.path.join(folder, _temporary_name())
        fd = os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
        os.unlink(name)
    except OSError as error:
        what, hint = "cannot create a temporary file", "set TMPDIR to a folder with room"
        raise ImageWriteError(what, path=folder, hint=hint, errno=error.errno) from error
    return fd


def _temporary_name() -> str:
    return f".ckpt-{os.getpid()}-{os.urandom(8).hex()}.partial"

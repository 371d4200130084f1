"""A folder of results that are dear to compute: bytecode, symbol addresses.

What lies there is loaded into the kernel, so only the invoking user may be able to write it: the
folder is opened without following links, and its owner and mode are checked, as are the entries'.
A damaged entry is the same as none.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from typing import TYPE_CHECKING, Final

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterator

SYSTEM_FOLDER: Final = "/var/cache/ckpt-bpf"
_MAGIC: Final = b"ckpt-bpf cache 1"
_DIGEST_BYTES: Final = 16


def default_folder() -> str:
    """Return root's system folder, or another user's own."""
    if os.geteuid() == 0:
        return SYSTEM_FOLDER
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return f"{base}/ckpt-bpf"


class Cache:
    """An open cache folder; without a safe one nothing is ever found and nothing kept."""

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = os.fspath(folder or default_folder())
        self._fd = _open_folder(self.folder)

    def close(self) -> None:
        """Close the folder."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.close()

    @property
    def is_usable(self) -> bool:
        """Whether the folder exists and only we can write it."""
        return self._fd is not None

    def load(self, name: str) -> memoryview | None:
        """Return the payload kept under ``name``; None if there is none, or it is damaged.

        It is mapped, not copied: what is not looked at costs no memory.
        """
        content = self._map(name)
        if content is None:
            return None
        view = memoryview(content)
        start = len(_MAGIC) + _DIGEST_BYTES
        if view[:start] == _MAGIC + xxhash.xxh3_128_digest(view[start:]):
            return view[start:]
        self.discard(name)
        return None

    def _map(self, name: str) -> mmap.mmap | None:
        if self._fd is None:
            return None
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return None
        try:
            found = os.fstat(fd)
            if not found.st_size or not _is_ours(found, stat.S_IFREG):
                return None
            return mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)

    def store(self, name: str, payload: bytes) -> None:
        """Keep ``payload`` under ``name``, whole or not at all; a cache that cannot is no error."""
        if self._fd is None:
            return
        temporary = f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(temporary, flags, 0o600, dir_fd=self._fd)
        except OSError:
            return
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(_MAGIC + xxhash.xxh3_128_digest(payload) + payload)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            self.discard(temporary)

    def discard(self, name: str) -> None:
        """Forget an entry."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._fd)

    def keep_newest(self, prefix: str, count: int) -> None:
        """Forget the entries of this ``prefix`` that are older than the ``count`` newest."""
        entries = [name for name in self.names() if name.startswith(prefix)]
        for name in sorted(entries, key=self._age_ns)[count:]:
            self.discard(name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other users of the folder from computing the same thing at the same time."""
        if self._fd is None:
            yield
            return
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def names(self) -> list[str]:
        """List the entries."""
        return [] if self._fd is None else os.listdir(self._fd)

    def _age_ns(self, name: str) -> int:
        try:
            return -os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mtime_ns
        except OSError:
            return 0


def _open_folder(folder: str) -> int | None:
    """Open the folder if nobody else can have put anything into it; make it if there is none."""
    try:
        if not os.path.exists(folder):
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    parent = os.stat(os.path.dirname(folder))
    if _is_ours(os.fstat(fd), stat.S_IFDIR) and _is_safe_parent(parent):
        return fd
    os.close(fd)
    return None


def _is_ours(found: os.stat_result, file_type: int) -> bool:
    """Whether we own the file and nobody else may write it."""
    writable = stat.S_IWGRP | stat.S_IWOTH
    return (
        stat.S_IFMT(found.st_mode) == file_type
        and found.st_uid == os.geteuid()
        and not found.st_mode & writable
    )


def _is_safe_parent(found: os.stat_result) -> bool:
    """Whether nobody else may rename what lies in a folder."""
    others_write = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return found.st_uid in {0, os.geteuid()} and (
        not others_write or bool(found.st_mode & stat.S_ISVTX)
    )

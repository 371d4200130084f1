"""A descriptor table from /proc, stat and kcmp, as `FileView`s.

Files are looked at with stat and, through copies (pidfd_getfd), with fcntl; none is opened.
`fs_type` and `dev` are those of the mount that fdinfo names; kernel-internal mounts are in no
table and are known by their magic number. Sources: `fs/proc/fd.c`, `include/uapi/linux/magic.h`,
`include/uapi/asm-generic/fcntl.h`, 6.18.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct
from functools import cmp_to_key
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.host.kernel_view import FileView, KernelId
from ckpt.host.proc_tasks import read_optional
from ckpt.host.status import read_small
from ckpt.host.syscalls import KCMP_FILE, SYS_KCMP, libc, pidfd_getfd, syscall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_O_PATH: Final = 0o10000000
_F_GETSIG: Final = 11
_F_GETOWN_EX: Final = 16
_F_GETOWNER_UIDS: Final = 17
_OWNER: Final = struct.Struct("<ii")
"""struct f_owner_ex: type and pid; and the two uids of F_GETOWNER_UIDS."""
_UIDS: Final = struct.Struct("<II")

_ANON_INODE_FS_MAGIC: Final = 0x09041934
_INTERNAL_TYPES: Final = {
    0x50495045: "pipefs",
    0x534F434B: "sockfs",
    _ANON_INODE_FS_MAGIC: "anon_inodefs",
    0x01021994: "tmpfs",
    0x958458F6: "hugetlbfs",
    0x6E736673: "nsfs",
    0x50494446: "pidfs",
    0x5345434D: "secretmem",
    0x19800202: "mqueue",
    0x444D4142: "dmabuf",
}
_ANON_OPERATIONS: Final = {
    "[eventfd]": "eventfd_fops",
    "[eventpoll]": "eventpoll_fops",
    "[timerfd]": "timerfd_fops",
    "[signalfd]": "signalfd_fops",
    "inotify": "inotify_fops",
    "[fanotify]": "fanotify_fops",
    "[io_uring]": "io_uring_fops",
    "[userfaultfd]": "userfaultfd_fops",
    "[perf_event]": "perf_fops",
    "bpf-map": "bpf_map_fops",
    "bpf-prog": "bpf_prog_fops",
}
"""The name that the kernel gave an anonymous inode to the operations that it always has."""
_STATFS_BYTES: Final = 120
_ANON_LINK: Final = "anon_inode:"

_statfs = libc.statfs
_statfs.argtypes = (ctypes.c_char_p, ctypes.c_void_p)


class Mount(NamedTuple):
    """One line of mountinfo."""

    dev: int
    fs_type: str


class Owner(NamedTuple):
    """struct fown_struct as fcntl shows it."""

    pid: int = 0
    kind: int = 0
    uid: int = 0
    euid: int = 0
    signum: int = 0


class Found(NamedTuple):
    """One descriptor as it was read."""

    fd: int
    info: dict[bytes, bytes]
    status: os.stat_result
    link: str
    """Of anonymous inodes only."""
    magic: int
    has_locks: bool


def parse_mounts(text: bytes) -> dict[int, Mount]:
    """Parse /proc/PID/mountinfo by mount id."""
    found = {}
    for line in text.splitlines():
        words, _, rest = line.partition(b" - ")
        number, _, device = words.split(None, 3)[:3]
        major, _, minor = device.partition(b":")
        fs_type = rest.split(None, 1)[0].decode("utf-8", "backslashreplace")
        found[int(number)] = Mount(os.makedev(int(major), int(minor)), fs_type)
    return found


class FileReader:
    """Reads the table of one living thread; make one for each look."""

    def __init__(self, tgid: int, tid: int, pidfd: int) -> None:
        self._tgid = tgid
        self._folder = f"/proc/{tgid}/task/{tid}/"
        self._tid = tid
        self._pidfd = pidfd
        self._magics: dict[int, int] = {}

    def read(self, identify: Callable[[object], KernelId]) -> list[FileView]:
        """Return every descriptor, by number; those that are closed meanwhile are left out."""
        mounts = parse_mounts(read_optional(self._folder + "mountinfo"))
        found = list(self._list())
        files = self._group(found)
        owners: dict[int, Owner] = {}
        views = []
        for each in found:
            first = files[each.fd]
            if first not in owners:
                owners[first] = self._read_owner(each)
            identity = identify(("file", self._key(each), first))
            views.append(_build_view(each, identity, owners[first], mounts, identify))
        return views

    def _list(self) -> Iterator[Found]:
        folder = os.open(self._folder + "fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in sorted(os.listdir(folder), key=int):
                try:
                    yield self._look(name, folder)
                except FileNotFoundError:
                    continue  # Closed since it was listed: the target runs.
        finally:
            os.close(folder)

    def _look(self, name: str, folder: int) -> Found:
        info, has_locks = parse_fdinfo(read_fdinfo(f"{self._folder}fdinfo/{name}"))
        status = os.stat(name, dir_fd=folder)
        magic = self._read_magic(status.st_dev, name)
        link = os.readlink(name, dir_fd=folder) if magic == _ANON_INODE_FS_MAGIC else ""
        return Found(int(name), info, status, link, magic, has_locks)

    def _read_magic(self, dev: int, name: str) -> int:
        if dev not in self._magics:
            answer = ctypes.create_string_buffer(_STATFS_BYTES)
            path = f"{self._folder}fd/{name}".encode()
            if _statfs(path, ctypes.addressof(answer)):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), path)
            self._magics[dev] = int.from_bytes(answer.raw[:8], "little")
        return self._magics[dev]

    def _key(self, found: Found) -> tuple[object, ...]:
        """Return what two descriptors of one struct file surely have in common."""
        flags = int(found.info[b"flags"], 8) & ~os.O_CLOEXEC
        status = found.status
        names = (b"mnt_id", b"pos", b"eventfd-id")
        return status.st_dev, status.st_ino, flags, *(found.info.get(name) for name in names)

    def _group(self, found: Iterable[Found]) -> dict[int, int]:
        """Map every fd to the lowest fd of the same struct file; kcmp tells among those alike."""
        alike: dict[tuple[object, ...], list[int]] = {}
        for each in found:
            alike.setdefault(self._key(each), []).append(each.fd)
        first: dict[int, int] = {}
        for fds in alike.values():
            if len(fds) > 1:
                fds.sort(key=cmp_to_key(self._compare))
            for before, fd in zip([-1, *fds], fds, strict=False):
                same = before >= 0 and self._order(before, fd) == 0
                first[fd] = first[before] if same else fd
        return first

    def _compare(self, fd: int, other: int) -> int:
        """Order two descriptors by their struct file, then by number."""
        return (fd - other, -1, 1, fd - other)[self._order(fd, other)]

    def _order(self, fd: int, other: int) -> int:
        """Return what kcmp says: 0 the same, 1 less, 2 greater, 3 different."""
        try:
            return syscall(SYS_KCMP, self._tid, self._tid, KCMP_FILE, fd, other)
        except OSError:
            return 3  # One was closed meanwhile.

    def _read_owner(self, found: Found) -> Owner:
        if int(found.info[b"flags"], 8) & _O_PATH:
            return Owner()
        try:
            copy = pidfd_getfd(self._pidfd, found.fd)
        except OSError:
            return Owner()  # Closed meanwhile.
        try:
            kind, pid = _OWNER.unpack(fcntl.fcntl(copy, _F_GETOWN_EX, bytes(_OWNER.size)))
            signum = fcntl.fcntl(copy, _F_GETSIG)
            uid = euid = 0
            if pid:
                uid, euid = _UIDS.unpack(fcntl.fcntl(copy, _F_GETOWNER_UIDS, bytes(_UIDS.size)))
            return Owner(pid, kind, uid, euid, signum)
        finally:
            os.close(copy)


def read_fdinfo(path: str) -> bytes:
    """Return the head of an fdinfo file, all of it unless an epoll instance watches many files.

    Raises:
        FileNotFoundError: the descriptor is closed.
    """
    return read_small(path)


def parse_fdinfo(text: bytes) -> tuple[dict[bytes, bytes], bool]:
    """Return the first line of each name, and whether there are locks."""
    found: dict[bytes, bytes] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(b":")
        if colon and name not in found:
            found[name] = value.strip()
    return found, b"lock" in found


def infer_operations(mode: int, flags: int, anon_name: str) -> str:
    """Return the symbol of f_op where the kind of inode decides it; "" where it does not."""
    if flags & _O_PATH:
        return ""
    if stat.S_ISFIFO(mode):
        return "pipefifo_fops"
    if stat.S_ISSOCK(mode):
        return "socket_file_ops"
    return _ANON_OPERATIONS.get(anon_name, "")


def _build_view(
    found: Found,
    identity: KernelId,
    owner: Owner,
    mounts: dict[int, Mount],
    identify: Callable[[object], KernelId],
) -> FileView:
    status, flags = found.status, int(found.info[b"flags"], 8)
    mount = mounts.get(int(found.info.get(b"mnt_id", b"-1")))
    anon_name = found.link.removeprefix(_ANON_LINK)
    return FileView(
        fd=found.fd,
        cloexec=bool(flags & os.O_CLOEXEC),
        file=identity,
        f_op=infer_operations(status.st_mode, flags, anon_name),
        f_count=None,
        f_mode=None,
        f_flags=flags & ~os.O_CLOEXEC,
        f_pos=int(found.info[b"pos"]),
        ino=status.st_ino,
        dev=mount.dev if mount else status.st_dev,
        mode=status.st_mode,
        nlink=status.st_nlink,
        rdev=status.st_rdev,
        size=status.st_size,
        sb_magic=found.magic,
        fs_type=mount.fs_type if mount else _INTERNAL_TYPES.get(found.magic, ""),
        inode=identify(("inode", status.st_dev, status.st_ino)),
        private=None,
        anon_name=anon_name,
        owner_pid=owner.pid,
        owner_type=owner.kind,
        owner_uid=owner.uid,
        owner_euid=owner.euid,
        owner_signum=owner.signum,
        has_locks=found.has_locks,
    )

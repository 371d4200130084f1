"""Inodes that only this process keeps alive: memfds, deleted files, shared anonymous memory.

Whoever meets one first (a descriptor, a mapped area) calls `capture_content`; the content is stored
once, and at a restore one inode is made once, which descriptors and mappings then share: the token
`inode_made(ref)` says that it stands at `inode_key(ref)`, open for reading and writing.

Also kept this way: a file that has other names, but none that we know leads to it (its own name
was unlinked, or hidden by a mount). It comes back as a deleted file of its own, no longer the same
inode as those other names; the snapshot warns of that.
"""

from __future__ import annotations

import errno
import os
from array import array
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, Literal
from weakref import WeakKeyDictionary

import msgspec

from ckpt.errors import CaptureError
from ckpt.host.facts import U32
from ckpt.objects.base import Identities, Objref, Process, Record
from ckpt.objects.file_kinds.common import (
    O_ASYNC,
    Bytes,
    RawPath,
    inode_key,
    inode_made,
    inode_sealed,
    keep,
    printable,
    reopen,
    set_status_flags,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.objects.base import Builder, Records, Restorer

PAGE: Final = 4096
Kind = Literal["memfd", "deleted", "shmem"]
MEMFD: Final = "memfd"
DELETED: Final = "deleted"
SHMEM: Final = "shmem"

F_ADD_SEALS: Final = 1033
F_GET_SEALS: Final = 1034
F_SEAL_SEAL: Final = 0x1
F_SEAL_EXEC: Final = 0x20
"""`include/uapi/linux/fcntl.h`, 6.18."""
MFD_CLOEXEC: Final = 0x1
MFD_ALLOW_SEALING: Final = 0x2

MAP_NORESERVE: Final = 0x4000
"""`include/uapi/asm-generic/mman-common.h`"""
_COPY_BYTES: Final = 1 << 24


class InodeContent(Record, tag="inode", frozen=True, kw_only=True):
    """An inode without a name, whose content is in the image under `ref`."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"ino"})
    ref: int
    kind: Kind
    name: RawPath
    """memfd: its name. deleted: the path that it had. shmem: empty."""
    ino: int
    size: Bytes
    mode: U32
    uid: U32
    gid: U32
    mtime_ns: int
    seals: U32
    has_pages: bool
    """Some whole pages hold data; they are in the image."""
    tail: Annotated[bytes, msgspec.Meta(max_length=PAGE - 1)]
    """What follows the last whole page."""


class _Contents:
    """What one snapshot has stored: every objref, and the records not yet handed out."""

    def __init__(self) -> None:
        self.refs: set[int] = set()
        self.fresh: list[InodeContent] = []


_captured: WeakKeyDictionary[Identities, _Contents] = WeakKeyDictionary()


def inode_ref(identities: Identities, dev: int, ino: int) -> Objref:
    """Return the objref of an inode, numbers as the kernel's own (s_dev, i_ino)."""
    return identities.ref("inode", (dev, ino))


def capture_content(process: Process, ref: int, source_fd: int, kind: Kind, name: bytes) -> None:
    """Store an inode's content once; later calls for the same `ref` do nothing.

    `source_fd` is our own descriptor of it, of any access mode; its position is left alone.

    Raises:
        CaptureError: the content cannot be read.
    """
    contents = _captured.setdefault(process.identities, _Contents())
    if ref in contents.refs:
        return
    try:
        reader = os.open(f"/proc/self/fd/{source_fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        what = "the content of a deleted file cannot be read"
        raise CaptureError(what, where=printable(name), errno=error.errno) from error
    try:
        contents.fresh.append(_store(process, ref, reader, kind, name))
        contents.refs.add(ref)
    finally:
        os.close(reader)


def has_content(process: Process, ref: int) -> bool:
    """Tell whether the content of this inode has been stored already."""
    contents = _captured.get(process.identities)
    return contents is not None and ref in contents.refs


def captured_contents(process: Process) -> list[InodeContent]:
    """Return the records of all inodes captured since the last call."""
    contents = _captured.setdefault(process.identities, _Contents())
    fresh, contents.fresh = contents.fresh, []
    return fresh


def _store(process: Process, ref: int, fd: int, kind: Kind, name: bytes) -> InodeContent:
    found = os.fstat(fd)
    whole = found.st_size & -PAGE
    extents = array("Q", (number for pair in data_extents(fd, whole) for number in pair))
    if extents and process.sink is not None:
        process.sink.store(ref, fd, extents)
    return InodeContent(
        ref=ref,
        kind=kind,
        name=name,
        ino=found.st_ino,
        size=found.st_size,
        mode=found.st_mode,
        uid=found.st_uid,
        gid=found.st_gid,
        mtime_ns=found.st_mtime_ns,
        seals=_seals(fd) if kind == MEMFD else 0,
        has_pages=bool(extents),
        tail=os.pread(fd, found.st_size - whole, whole),
    )


def data_extents(fd: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield page-aligned (offset, length) of what holds data below `end` (a multiple of a page).

    Moves the position of `fd`.
    """
    at = 0
    while at < end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA) & -PAGE
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = min((os.lseek(fd, max(start, at), os.SEEK_HOLE) + PAGE - 1) & -PAGE, end)
        if start < at:
            yield start, at - start


def _seals(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, F_GET_SEALS)


def plan_contents(records: Records, build: Builder) -> None:
    """Make every such inode, filled; add seals once everything that maps it writable has."""
    from ckpt.objects.steps import memory_mapped

    mapped = [memory_mapped(process.tgid) for process in records.processes]
    for record in records.of(InodeContent):
        build.host_step(
            MakeInode(record),
            f"recreate {record.kind} {printable(record.name)}",
            provides=[inode_made(record.ref)],
        )
        if record.seals & ~F_SEAL_SEAL:
            build.host_step(
                SealInode(record),
                f"seal {printable(record.name)}",
                needs=[inode_made(record.ref)],
                after=mapped,
                provides=[inode_sealed(record.ref)],
            )


class MakeInode:
    """Create an inode without a name and fill it from the image."""

    def __init__(self, record: InodeContent) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Create, fill, set size, owner, mode and time, in this order."""
        record = self.record
        fd = _MAKERS[record.kind](record)
        restorer.fds[inode_key(record.ref)] = fd
        if record.has_pages:
            fill(fd, restorer, record.ref)
        os.ftruncate(fd, record.size)
        if record.tail:
            os.pwrite(fd, record.tail, record.size - len(record.tail))
        os.fchown(fd, record.uid, record.gid)
        os.fchmod(fd, record.mode & 0o7777)
        os.utime(fd, ns=(record.mtime_ns, record.mtime_ns))

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        record = self.record
        return f"make {record.kind} {printable(record.name)} of {record.size} bytes"


class SealInode:
    """Add the seals of a memfd."""

    def __init__(self, record: InodeContent) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Add them all at once."""
        import fcntl

        fcntl.fcntl(restorer.fds[inode_key(self.record.ref)], F_ADD_SEALS, self.record.seals)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"add seals {self.record.seals:#x} to {printable(self.record.name)}"


def fill(fd: int, restorer: Restorer, ref: int) -> None:
    """Copy the pages of `ref` from the image to the same offsets of `fd`."""
    extents, position = restorer.page_extents(ref)
    for i in range(0, len(extents), 2):
        os.lseek(fd, extents[i], os.SEEK_SET)
        left = extents[i + 1]
        while left:
            done = os.sendfile(fd, restorer.image_fd, position, min(left, _COPY_BYTES))
            if done == 0:
                raise OSError(errno.EIO, "the image ends inside the content of a file")
            left, position = left - done, position + done
    os.lseek(fd, 0, os.SEEK_SET)


def open_inode(restorer: Restorer, ref: int, inode: int, flags: int, pos: int) -> None:
    """Open the inode at `inode_key(inode)` again as file `ref`."""
    fd = reopen(restorer.fds[inode_key(inode)], flags & ~O_ASYNC)
    keep(restorer, ref, fd)
    set_status_flags(fd, flags)
    if pos:
        os.lseek(fd, pos, os.SEEK_SET)


def _make_memfd(record: InodeContent) -> int:
    sealable = 0 if record.seals == F_SEAL_SEAL else MFD_ALLOW_SEALING
    return os.memfd_create(os.fsdecode(record.name), MFD_CLOEXEC | sealable)


def _make_shmem(record: InodeContent) -> int:
    """Map shared anonymous memory and take the inode behind it: a memfd would show another name."""
    import ctypes
    import mmap

    size = max((record.size + PAGE - 1) & -PAGE, PAGE)
    with mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_NORESERVE) as area:
        start = ctypes.addressof(ctypes.c_char.from_buffer(area))
        path = f"/proc/self/map_files/{start:x}-{start + size:x}"
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _make_deleted(record: InodeContent) -> int:
    folder, name = os.path.split(record.name)
    flags = os.O_RDWR | os.O_CLOEXEC
    if name == b"#%d" % record.ino:
        # Never had a name (O_TMPFILE): linkat may still give it one.
        try:
            return os.open(folder, flags | os.O_TMPFILE, 0o600)
        except OSError:
            pass
    spare = b".%s.ckpt-%d" % (name[:200], os.getpid())
    for path in (record.name, folder + b"/" + spare, b"/tmp/" + spare):
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError:
            continue
        os.unlink(path)
        return fd
    raise OSError(errno.EACCES, "no folder to make a deleted file in", record.name)


_MAKERS: Final = {MEMFD: _make_memfd, SHMEM: _make_shmem, DELETED: _make_deleted}

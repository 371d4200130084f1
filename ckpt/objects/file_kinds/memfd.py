"""memfds: name, seals and content come back with the inode, each open file is opened on it."""

from __future__ import annotations

import os
import stat
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.objects.file_kinds.common import (
    Bytes,
    FileRecord,
    OpenFile,
    Opening,
    RawPath,
    Table,
    inode_made,
    printable,
)
from ckpt.objects.file_kinds.inode import (
    MEMFD,
    SHMEM,
    Kind,
    capture_content,
    inode_ref,
    open_inode,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.errors import Finding
    from ckpt.objects.base import Builder, Records, Restorer

_PREFIX: Final = b"/memfd:"
_SUFFIX: Final = b" (deleted)"


class MemfdFile(FileRecord, tag="file.memfd", frozen=True, kw_only=True):
    """An open file on an inode of the kernel's own tmpfs."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"ino"})
    name: RawPath
    pos: Bytes
    dev: int
    ino: int
    inode: int


RECORDS = (MemfdFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether the inode is one of the kernel's own tmpfs, which has no names."""
    del table
    view = file.view
    is_nameless = stat.S_ISREG(view.mode) and view.nlink == 0 and view.fs_type == "tmpfs"
    return is_nameless and view.dev == memory_device()


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Yield nothing: all of these can be recreated."""
    del files, table
    return ()


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[MemfdFile]:
    """Record each open file; store each inode's content once."""
    for file in files:
        view = file.view
        inode = inode_ref(table.process.identities, view.dev, view.ino)
        link = file.link(table)
        kind: Kind = MEMFD if link.startswith(_PREFIX) else SHMEM
        name = link.removeprefix(_PREFIX).removesuffix(_SUFFIX) if kind == MEMFD else b""
        copy = table.copy(file)
        try:
            capture_content(table.process, inode, copy, kind, name)
        finally:
            os.close(copy)
        ref, flags, owner = file.common()
        yield MemfdFile(
            ref=ref,
            flags=flags,
            owner=owner,
            name=name,
            pos=view.f_pos,
            dev=view.dev,
            ino=view.ino,
            inode=inode,
        )


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Open each recreated inode."""
    del build
    for record in records.of(MemfdFile):
        yield Opening((record.ref,), OpenMemfd(record), needs=(inode_made(record.inode),))


@cache
def memory_device() -> int:
    """Return st_dev of the kernel's own tmpfs, where every memfd lives."""
    fd = os.memfd_create("ckpt-probe", os.MFD_CLOEXEC)
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


class OpenMemfd:
    """Open a recreated memfd with the access mode of one of its open files."""

    def __init__(self, record: MemfdFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Open it through our own descriptor of the inode."""
        open_inode(restorer, self.record.ref, self.record.inode, self.record.flags, self.record.pos)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"open memfd {printable(self.record.name)} at {self.record.pos}"

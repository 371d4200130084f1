"""Regular files with a name: opened again by path. Deleted ones: recreated with their content.

The policy for a file that is not what it was: the image holds no content of files that have a name,
so the file on disk is the truth. It is accepted if it is the same inode and has not shrunk (logs
grow), or another inode of the recorded size and modification time (a faithful copy). A shrunk or
replaced file is refused; `Options.allow_changed_files` accepts it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.errors import Finding, RestoreError
from ckpt.objects.file_kinds.common import (
    O_ASYNC,
    Bytes,
    FileRecord,
    OpenFile,
    Opening,
    RawPath,
    Table,
    inode_made,
    keep,
    printable,
)
from ckpt.objects.file_kinds.inode import (
    DELETED,
    capture_content,
    has_content,
    inode_ref,
    open_inode,
)
from ckpt.objects.file_kinds.places import Place, find_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.objects.base import Builder, Options, Records, Restorer

KERNEL_FILE_SYSTEMS: Final = frozenset(
    {
        "proc", "sysfs", "debugfs", "tracefs", "securityfs", "configfs", "cgroup", "cgroup2",
        "bpf", "pidfs", "nsfs", "mqueue", "devpts", "efivarfs", "pstore", "binfmt_misc",
        "fusectl", "selinuxfs", "resctrl", "anon_inodefs", "hugetlbfs", "secretmem", "guest_memfd",
    }
)  # fmt: skip
"""Their files are the kernel's answers, not data that an offset means something in."""

_DELETED: Final = b" (deleted)"
_GONE_HINT: Final = "put the file back where it was"
_CHANGED_HINT: Final = "put the file back, or accept it with --allow-changed-files"


class RegularFile(FileRecord, tag="file.regular", frozen=True, kw_only=True):
    """An open regular file."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"dev", "ino", "size", "mtime_ns"})
    path: RawPath
    pos: Bytes
    size: Bytes
    mtime_ns: int
    dev: int
    ino: int
    """As stat shows them."""
    inode: int
    """Objref of the inode's content in the image, if `is_kept`; else 0."""
    is_kept: bool
    """No path leads to it: its content is in the image."""


RECORDS = (RegularFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is a regular file of a file system that holds data."""
    del table
    return stat.S_ISREG(file.view.mode) and file.view.fs_type not in KERNEL_FILE_SYSTEMS


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Warn of files that will come back as inodes of their own."""
    if not table.process.is_frozen:
        return
    for file in files:
        if file.view.nlink and find_place(file, table) is None:
            what = f"no known path leads to {printable(file.link(table))}, which has other names"
            hint = "it comes back as a deleted file of its own"
            yield Finding(table.where(file), what, hint, blocker=False)


def capture(files: Sequence[OpenFile], table: Table) -> list[tuple[OpenFile, Place, int]]:
    """Look where each file is; store the content of those that no path leads to."""
    found: list[tuple[OpenFile, Place, int]] = []
    for file in files:
        view = file.view
        place = find_place(file, table) if view.nlink else None
        # A mapping may have found no path where we find one: they must stay one file.
        if place is None or _is_mapped_without_path(file, table):
            inode = inode_ref(table.process.identities, view.dev, view.ino)
            found.append((file, _keep_content(file, table, inode), inode))
        else:
            found.append((file, place, 0))
    return found


def _is_mapped_without_path(file: OpenFile, table: Table) -> bool:
    identities, inode = table.process.identities, (file.view.dev, file.view.ino)
    if not identities.is_known("inode", inode):
        return False
    return has_content(table.process, inode_ref(identities, *inode))


def finish(found: Sequence[tuple[OpenFile, Place, int]]) -> Iterable[RegularFile]:
    """Make the records."""
    for file, place, inode in found:
        ref, flags, owner = file.common()
        yield RegularFile(
            ref=ref,
            flags=flags & ~os.O_NOFOLLOW if inode else flags,
            owner=owner,
            path=place.path,
            pos=file.view.f_pos,
            size=place.size,
            mtime_ns=place.mtime_ns,
            dev=place.dev,
            ino=place.ino,
            inode=inode,
            is_kept=bool(inode),
        )


def _keep_content(file: OpenFile, table: Table, inode: int) -> Place:
    path = file.link(table).removesuffix(_DELETED)
    copy = table.copy(file)
    try:
        capture_content(table.process, inode, copy, DELETED, path)
        now = os.fstat(copy)
    finally:
        os.close(copy)
    return Place(path, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


def preflight(records: Records, options: Options) -> Iterable[Finding]:
    """Find the files that are gone, shrunk or replaced, each once."""
    seen: set[tuple[bytes, int]] = set()
    for record in records.of(RegularFile):
        if record.is_kept or (record.path, record.size) in seen:
            continue
        seen.add((record.path, record.size))
        try:
            change = find_change(record, os.stat(record.path))
        except OSError as error:
            what = f"cannot be opened: {os.strerror(error.errno or 0)}"
            yield Finding(f"file {printable(record.path)}", what, _GONE_HINT)
            continue
        if change and not options.allow_changed_files:
            yield Finding(f"file {printable(record.path)}", change, _CHANGED_HINT)


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Open each file again."""
    for record in records.of(RegularFile):
        if record.is_kept:
            yield Opening((record.ref,), OpenKept(record), needs=(inode_made(record.inode),))
        else:
            yield Opening((record.ref,), OpenRegular(record, build.options.allow_changed_files))


class OpenRegular:
    """Open a file by path, refuse one that is not what it was, seek."""

    def __init__(self, record: RegularFile, allow_changed: bool) -> None:
        self.record = record
        self.allow_changed = allow_changed

    def perform(self, restorer: Restorer) -> None:
        """Open with the recorded flags; the check is made on what was opened."""
        record = self.record
        flags = (record.flags & ~O_ASYNC) | os.O_CLOEXEC
        try:
            fd = os.open(record.path, flags)
        except OSError as error:
            raise RestoreError(
                "cannot be opened", where=printable(record.path), hint=_GONE_HINT, errno=error.errno
            ) from error
        keep(restorer, record.ref, fd)
        change = "" if self.allow_changed else find_change(record, os.fstat(fd))
        if change:
            raise RestoreError(change, where=printable(record.path), hint=_CHANGED_HINT)
        if record.pos:
            os.lseek(fd, record.pos, os.SEEK_SET)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"open {printable(self.record.path)} at {self.record.pos}"


class OpenKept:
    """Open a recreated inode with the access mode and flags of one of its open files."""

    def __init__(self, record: RegularFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Open it through our own descriptor of the inode."""
        open_inode(restorer, self.record.ref, self.record.inode, self.record.flags, self.record.pos)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"open deleted {printable(self.record.path)} at {self.record.pos}"


def find_change(record: RegularFile, now: os.stat_result) -> str:
    """Return what is wrong with a file by the policy above; empty: it is accepted."""
    same_inode = (now.st_dev, now.st_ino) == (record.dev, record.ino)
    if not stat.S_ISREG(now.st_mode):
        return "is no regular file any more"
    if same_inode and now.st_size < record.size:
        return f"has shrunk from {record.size} to {now.st_size} bytes since the snapshot"
    if same_inode or (now.st_size, now.st_mtime_ns) == (record.size, record.mtime_ns):
        return ""
    return "has been replaced by another file since the snapshot"

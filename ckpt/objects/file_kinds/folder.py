"""Open folders: opened again by path, at their reading position (a cookie of the file system)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.errors import Finding
from ckpt.objects.file_kinds.common import (
    SETTABLE_FLAGS,
    Bytes,
    FileRecord,
    OpenFile,
    Opening,
    RawPath,
    Table,
    keep,
    printable,
    set_status_flags,
)
from ckpt.objects.file_kinds.places import find_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.objects.base import Builder, Records, Restorer

_PSEUDO: Final = frozenset({"proc", "sysfs", "debugfs", "tracefs", "cgroup", "cgroup2"})


class FolderFile(FileRecord, tag="file.folder", frozen=True, kw_only=True):
    """An open folder."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"dev", "ino"})
    path: RawPath
    pos: Bytes
    dev: int
    ino: int


RECORDS = (FolderFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is a folder."""
    del table
    return stat.S_ISDIR(file.view.mode)


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse removed folders and those of kernel file systems."""
    for file in files:
        if file.view.fs_type in _PSEUDO:
            what = f"folder of {table.describe(file)}: not supported"
            yield Finding(table.where(file), what, "close it before the snapshot")
        elif find_place(file, table) is None:
            what = f"folder {printable(file.link(table))} has been removed or hidden"
            yield Finding(table.where(file), what, "put it back, or let the program close it")


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[FolderFile]:
    """Record path and position."""
    for file in files:
        place = find_place(file, table)
        if place is None:
            continue  # refused by survey
        ref, flags, owner = file.common()
        yield FolderFile(
            ref=ref,
            flags=flags,
            owner=owner,
            path=place.path,
            pos=file.view.f_pos,
            dev=place.dev,
            ino=place.ino,
        )


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Open each folder again."""
    del build
    for record in records.of(FolderFile):
        yield Opening((record.ref,), OpenFolder(record))


class OpenFolder:
    """Open a folder by path and seek to where it was being read."""

    def __init__(self, record: FolderFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Open it; whatever folder stands at the path now is the one."""
        record = self.record
        flags = record.flags & ~SETTABLE_FLAGS
        fd = os.open(record.path, flags | os.O_DIRECTORY | os.O_CLOEXEC)
        set_status_flags(fd, record.flags)
        if record.pos:
            os.lseek(fd, record.pos, os.SEEK_SET)
        keep(restorer, record.ref, fd)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        at = f" at {self.record.pos}" if self.record.pos else ""
        return f"open folder {printable(self.record.path)}{at}"

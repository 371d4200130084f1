"""O_PATH descriptors: a place in the file tree, of whatever type, opened again by its path.

The path must still lead to the same inode, or to one of the same type when that is gone (a path is
all that such a descriptor is). One whose name is gone cannot come back and is refused.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, ClassVar

from ckpt.errors import Finding, RestoreError
from ckpt.objects.file_kinds.common import (
    FileRecord,
    OpenFile,
    Opening,
    RawPath,
    Table,
    keep,
    printable,
)
from ckpt.objects.file_kinds.places import find_place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.objects.base import Builder, Records, Restorer


class PathFile(FileRecord, tag="file.path", frozen=True, kw_only=True):
    """An open file made with O_PATH."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"dev", "ino"})
    path: RawPath
    dev: int
    ino: int
    mode: int


RECORDS = (PathFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether the file was opened with O_PATH."""
    del table
    return file.is_path_only


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse places that no path leads to any more."""
    for file in files:
        if find_place(file, table) is None:
            what = f"O_PATH descriptor of {table.describe(file)}, which no path leads to"
            yield Finding(table.where(file), what, "close it, or put the file back")


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[PathFile]:
    """Record each place."""
    for file in files:
        place = find_place(file, table)
        if place is None:
            continue  # refused by survey
        ref, flags, owner = file.common()
        yield PathFile(
            ref=ref,
            flags=flags,
            owner=owner,
            path=place.path,
            dev=place.dev,
            ino=place.ino,
            mode=file.view.mode,
        )


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Open each path again."""
    del build
    for record in records.of(PathFile):
        yield Opening((record.ref,), OpenPath(record))


class OpenPath:
    """Open a path with O_PATH and look whether it is what was recorded."""

    def __init__(self, record: PathFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Open with the recorded flags: the path names the thing itself, link or not."""
        record = self.record
        fd = os.open(record.path, record.flags | os.O_CLOEXEC)
        now = os.fstat(fd)
        if stat.S_IFMT(now.st_mode) != stat.S_IFMT(record.mode):
            os.close(fd)
            raise RestoreError("is of another type than at the snapshot", where=self._name())
        keep(restorer, record.ref, fd)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"open {self._name()} with O_PATH"

    def _name(self) -> str:
        return printable(self.record.path)

"""Where an open file can be found by path: the name that the kernel gives, checked by identity.

The target is hostile: a path is believed only if the inode there is the open one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.objects.file_kinds.common import UNKNOWN

_DELETED: Final = b" (deleted)"
_MOST_ENTRIES: Final = 100_000
"""A folder of more is not searched for another name: the target waits meanwhile."""

if TYPE_CHECKING:
    from ckpt.objects.file_kinds.common import OpenFile, Table


class Place(NamedTuple):
    """A path that leads to the open inode, and what stat says of it."""

    path: bytes
    dev: int
    ino: int
    size: int
    mtime_ns: int


def find_place(file: OpenFile, table: Table) -> Place | None:
    """Return a path of an open file, or None if no path that we know leads to its inode.

    That is the name it was opened by, or else another one in the same folder: programs that write
    a file and link or rename it at the end do so there.
    """
    if file.place is not UNKNOWN:
        return file.place  # type: ignore[return-value]
    place = file.place = _find_place(file, table)
    return place


def _find_place(file: OpenFile, table: Table) -> Place | None:
    path = file.link(table)
    if not path.startswith(b"/"):
        return None
    place = _look_at(path, file, table)
    if place is None and path.endswith(_DELETED) and file.view.nlink:
        other = _find_other_name(os.path.dirname(path), file.view.ino)
        place = _look_at(other, file, table) if other else None
    return place


def _find_other_name(folder: bytes, ino: int) -> bytes | None:
    try:
        with os.scandir(folder) as entries:
            for _, entry in zip(range(_MOST_ENTRIES), entries, strict=False):
                if entry.inode() == ino:
                    return entry.path
    except OSError:
        pass  # The folder is gone as well.
    return None


def _look_at(path: bytes, file: OpenFile, table: Table) -> Place | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    view = file.view
    if (found.st_dev, found.st_ino) != (view.dev, view.ino) and not _is_same(file, table, found):
        return None
    return Place(path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _is_same(file: OpenFile, table: Table, found: os.stat_result) -> bool:
    """Compare by fstat: btrfs and overlayfs show other numbers than the kernel's inode has."""
    copy = table.copy(file)
    try:
        opened = os.fstat(copy)
    finally:
        os.close(copy)
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)

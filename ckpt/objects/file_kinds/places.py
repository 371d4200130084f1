"""Where an open file can be found by path: the name that the kernel gives, checked by identity.

The target is hostile: a path is believed only if the inode there is the open one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

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
    """Return the path of an open file, or None if no path that we know leads to its inode."""
    path = file.link(table)
    if not path.startswith(b"/"):
        return None
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

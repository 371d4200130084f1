"""Which files of a table lead outside and will be replaced; see `external` for the rule."""

from __future__ import annotations

import os
import stat
from typing import Final

from ckpt.objects.file_kinds.common import OpenFile, Table, complete_pipes
from ckpt.objects.file_kinds.unix_peers import has_peer_inside

STREAMS: Final[tuple[int, ...]] = (0, 1, 2)
_TERMINAL_FOPS: Final = frozenset({"tty_fops", "console_fops", "hung_up_tty_fops"})
_TERMINAL_MAJORS: Final = frozenset({4, 204, 229, *range(136, 144)})
_DEV_CONSOLE: Final = os.makedev(5, 1)
_TTYAUX_MAJOR: Final = 5
"""`Documentation/admin-guide/devices.txt`: 5:0 is /dev/tty, 5:1 the console, 5:2 ptmx."""


def split_streams(table: Table) -> Table:
    """Return the table with descriptors 0, 1, 2 that lead outside as files of their own."""
    external = external_refs(table)
    if not external:
        return table
    ids = {file.view.file for file in table.files if file.ref in external}
    files: list[OpenFile] = []
    for file in table.files:
        if file.ref not in external or not any(fd in STREAMS for fd in file.fds):
            files.append(file)
            continue
        for fd in [fd for fd in file.fds if fd in STREAMS]:
            ref = table.process.identities.ref("stream", (table.process.tgid, fd))
            files.append(_part(file, [fd], OpenFile(ref, file.view)))
        rest = [fd for fd in file.fds if fd not in STREAMS]
        if rest:
            files.append(_part(file, rest, OpenFile(file.ref, file.view)))
    split = Table(table.process, files, table.folder_fd, table.info_fd)
    split.kept["external"] = {file.ref for file in files if file.view.file in ids}
    return split


def external_refs(table: Table) -> set[int]:
    """Return the objrefs of the files that lead outside."""
    known = table.kept.get("external")
    if not isinstance(known, set):
        known = table.kept["external"] = _find_external(table)
    return known


def _find_external(table: Table) -> set[int]:
    streams = [table.by_fd[fd] for fd in STREAMS if fd in table.by_fd]
    streams = [file for file in streams if not file.is_path_only]
    terminals = {file.view.rdev for file in streams if is_terminal(file)}
    if table.process.process_view is not None:
        terminals.add(table.process.process_view.tty_dev)
    pipes = {inode_of(file) for file in streams if file.is_pipe} - complete_pipes(table)
    found: set[int] = set()
    sockets = [file for file in streams if file.is_socket]
    found.update(file.ref for file in sockets if not has_peer_inside(file, table))
    for file in table.by_type.get(stat.S_IFCHR, ()) if terminals else ():
        if is_terminal(file) and file.view.rdev in terminals:
            found.add(file.ref)
    for file in table.by_type.get(stat.S_IFIFO, ()) if pipes else ():
        if inode_of(file) in pipes:
            found.add(file.ref)
    return found


def is_terminal(file: OpenFile) -> bool:
    """Tell whether this is a terminal proper: not /dev/tty, not the master of a pair."""
    view = file.view
    if not stat.S_ISCHR(view.mode):
        return False
    major = os.major(view.rdev)
    if major == _TTYAUX_MAJOR:
        return view.rdev == _DEV_CONSOLE
    return view.f_op in _TERMINAL_FOPS if view.f_op else major in _TERMINAL_MAJORS


def inode_of(file: OpenFile) -> tuple[int, int]:
    """Return the kernel's own (s_dev, i_ino)."""
    return file.view.dev, file.view.ino


def _part(whole: OpenFile, fds: list[int], part: OpenFile) -> OpenFile:
    part.fds = fds
    part.view = whole.view
    return part

"""What a look at a running process tells of things that a snapshot finds when it has stopped.

Reference counts move while a process runs: what is said here of them, two looks have found.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Final

from ckpt import target
from ckpt.errors import Finding
from ckpt.freeze import read_state
from ckpt.host.status import read_small
from ckpt.objects.file_kinds.common import printable
from ckpt.objects.maps_text import unescape_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.host.kernel_view import FileView
    from ckpt.objects.base import Process
    from ckpt.objects.maps_text import MapsLine

_LOOKS: Final = 4
_PAUSE_S: Final = 0.02
_IN_MEMORY: Final = (b"/memfd:", b"/dev/zero", b"/SYSV", b"/[aio]", b"anon_inode:")
"""Names of what is not a file on a disk in any case."""
_STREAMS: Final = (0, 1, 2)
_ALONE: Final = "a restored process has memory of its own, that of the others is another"


def find_stuck(process: Process) -> Iterator[Finding]:
    """Warn of threads that stay in state D: no stop reaches them there."""
    stuck = [tid for tid in process.tids if _is_stuck(process, tid)]
    for _ in range(_LOOKS - 1):
        if not stuck:
            return
        time.sleep(_PAUSE_S)
        stuck = [tid for tid in stuck if _is_stuck(process, tid)]
    for tid in stuck:
        if target.is_vfork(read_small(process.path("syscall", tid)).split()):
            continue  # Refused by name.
        what = f"has been in state D (in {_read_wchan(process, tid)}) for some time"
        hint = "a snapshot waits for its end, for --timeout seconds at most"
        yield Finding(f"tid {tid}", what, hint, blocker=False)


def _is_stuck(process: Process, tid: int) -> bool:
    return read_state(process.tgid, tid).startswith("D")


def _read_wchan(process: Process, tid: int) -> str:
    """Return the name of the kernel function that a thread waits in."""
    try:
        return read_small(process.path("wchan", tid)).decode("ascii", "replace").strip("0") or "?"
    except PermissionError:
        return "?"


def find_outside_users(process: Process, by_bpf: bool) -> Iterator[Finding]:
    """Find open files, and tables, that somebody else has as well; only BPF counts references."""
    if not by_bpf:
        return
    first = {finding.where: finding for finding in _outside_users(process)}
    if not first:
        return
    time.sleep(_PAUSE_S)
    with target.open_observer(process) as observer:
        target.observe_running(process, observer)
        for finding in _outside_users(process):
            if finding.where in first:
                yield finding


def _outside_users(process: Process) -> Iterator[Finding]:
    view = process.thread_views.get(process.living_tid)
    threads = len(process.tids)
    shared = (
        (view and view.files_count, "fd table", "CLONE_FILES", True),
        (view and view.fs_users, "working folder", "CLONE_FS", True),
        (process.mm_view and process.mm_view.mm_users, "memory", "CLONE_VM", False),
    )
    for users, what, name, blocker in shared:
        if users and users > threads:
            text = f"its {what} has {users} users, {threads} of them its own threads"
            where = f"process {process.tgid} ({name})"
            hint = f"end the process made with {name}" if blocker else _ALONE
            yield Finding(where, text, hint, blocker)
    by_file: dict[int, list[FileView]] = {}
    for file in process.file_views.values():
        by_file.setdefault(file.file, []).append(file)
    # A call that waits holds its file, once a thread, unless nobody else could close it.
    held = threads if threads > 1 else 0
    streams = {(f.dev, f.ino) for fd in _STREAMS if (f := process.file_views.get(fd)) is not None}
    for files in by_file.values():
        yield from _outside_holders(process, files, held, streams)


def _outside_holders(
    process: Process, files: list[FileView], held: int, streams: set[tuple[int, int]]
) -> Iterator[Finding]:
    """Name a file that cannot be mapped and has more references than descriptors and waits."""
    file = files[0]
    is_pair = stat.S_ISFIFO(file.mode) or stat.S_ISSOCK(file.mode)
    if not (is_pair or file.anon_name) or (file.dev, file.ino) in streams:
        return
    count = file.f_count or 0
    if count > len(files) + held:
        what = f"{file.anon_name or file.fs_type}: also open outside ({count} references, "
        what += f"{len(files)} found)"
        where = f"process {process.tgid} fd {', '.join(str(each.fd) for each in files[:4])}"
        yield Finding(where, what, "end the other process that inherited it")


def find_unnamed_files(
    process: Process, lines: list[MapsLine], contents: dict[tuple[int, int], int]
) -> Iterator[Finding]:
    """Find files that no path leads to; fill `contents` with their bytes on disk or in memory.

    Of mapped ones there is a warning, for a path that should lead to them. (dev, ino) are the keys.
    """
    for file in process.file_views.values():
        if stat.S_ISREG(file.mode) and not file.nlink:
            contents[file.dev, file.ino] = _stored_bytes(process.path(f"fd/{file.fd}"), file.size)
    seen = set()
    for line in lines:
        if line.inode and (line.dev, line.inode) not in seen:
            seen.add((line.dev, line.inode))
            yield from _look_at_mapping(process, line, contents)
    exe = process.path("exe")
    path = os.readlink(exe)
    if not _is_at(path, os.stat(exe)):
        path = path.removesuffix(" (deleted)")
        what = f"its program {printable(os.fsencode(path))} is not at that path any more"
        hint = "the image holds a copy, which will show as deleted after a restore"
        yield Finding(f"process {process.tgid}", what, hint, blocker=False)


def _look_at_mapping(
    process: Process, line: MapsLine, contents: dict[tuple[int, int], int]
) -> Iterator[Finding]:
    link = f"/proc/{process.living_tid}/map_files/{line.start:x}-{line.end:x}"
    path = unescape_path(line.name)
    try:
        found = os.stat(link)
    except FileNotFoundError:
        return  # Unmapped or cut meanwhile.
    if not stat.S_ISREG(found.st_mode) or _is_at(path, found):
        return
    stored = found.st_blocks * 512
    contents[found.st_dev, found.st_ino] = stored
    if not line.name.startswith(_IN_MEMORY):
        what = f"mapped file {printable(os.fsencode(path))} is not at that path any more"
        hint = f"its content goes into the image ({stored} bytes)"
        yield Finding(f"area {line.start:#x}", what, hint, blocker=False)


def _is_at(path: str, found: os.stat_result) -> bool:
    try:
        there = os.stat(path)
    except (OSError, ValueError):
        return False
    return (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino)


def _stored_bytes(link: str, size: int) -> int:
    """Return what a file takes; its size where that cannot be asked."""
    try:
        return min(os.stat(link).st_blocks * 512, size)
    except OSError:
        return size

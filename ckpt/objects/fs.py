"""A process's root, working folder and file creation mask (struct fs_struct).

A removed working folder is made again by the task itself, entered and removed.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.errors import Finding
from ckpt.host.facts import U32
from ckpt.host.syscalls import KCMP_FS, kcmp_same
from ckpt.objects.base import Record
from ckpt.objects.file_kinds.common import RawPath
from ckpt.objects.steps import (
    Call,
    Expect,
    Token,
    born,
    c_string,
    fds_placed,
    fs_set,
    memory_filled,
    mm_fields_set,
    timens_entered,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Builder, Options, Process, ProcessRecord, Records

SYS_CHDIR, SYS_MKDIR, SYS_RMDIR, SYS_CHMOD = 80, 83, 84, 90
SYS_UMASK, SYS_CHROOT = 95, 161
"""`arch/x86/entry/syscalls/syscall_64.tbl`, 6.18."""

_DELETED: Final = b" (deleted)"


class FsRecord(Record, tag="fs", frozen=True, kw_only=True):
    """One struct fs_struct; paths as our own root sees them."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()
    ref: int
    cwd: RawPath
    cwd_mode: U32
    is_cwd_removed: bool
    root: RawPath
    umask: U32


RECORDS = (FsRecord,)


def survey(process: Process) -> Iterator[Finding]:
    """Refuse folders that no path leads to."""
    yield from _find_unshared(process)
    where = f"process {process.tgid}"
    for name, called in (("cwd", "working folder"), ("root", "root")):
        path = os.readlink(os.fsencode(process.path(name)))
        removed = _is_removed(process, name)
        if removed and name == "cwd" and path.endswith(_DELETED):
            parent = os.path.dirname(path)
            if os.path.isdir(parent):
                continue
        if removed or not _leads_to(path, process, name):
            yield Finding(where, f"its {called} {path!r} cannot be reached by that path", "cd /")


def _find_unshared(process: Process) -> Iterator[Finding]:
    """Refuse threads that have a working folder of their own: unshare(CLONE_FS)."""
    own = process.thread_views.get(process.living_tid)
    if process.is_frozen and own and own.fs_users and own.fs_users > len(process.tids):
        what = f"its working folder has {own.fs_users} users, "
        what += f"{len(process.tids)} of them its own threads"
        yield Finding(f"process {process.tgid}", what, "end the process made with CLONE_FS")
    for tid in process.tids:
        view = process.thread_views.get(tid)
        if view and own and view.fs and own.fs:
            shares = view.fs == own.fs
        else:
            try:
                shares = kcmp_same(process.living_tid, tid, KCMP_FS)
            except ProcessLookupError:
                continue  # It has ended meanwhile.
        if not shares:
            what = "has a working folder of its own (unshared): not supported"
            yield Finding(f"tid {tid}", what, "let the thread end first")


def capture(process: Process) -> FsRecord:
    """Record all three; the folder's mode is for making a removed one again."""
    process.findings.extend(survey(process))
    cwd = os.readlink(os.fsencode(process.path("cwd")))
    removed = _is_removed(process, "cwd")
    return FsRecord(
        ref=process.identities.ref("fs", process.tgid),
        cwd=cwd.removesuffix(_DELETED) if removed else cwd,
        cwd_mode=os.stat(process.path("cwd")).st_mode & 0o7777,
        is_cwd_removed=removed,
        root=os.readlink(os.fsencode(process.path("root"))),
        umask=_read_umask(process),
    )


def finish(raw: FsRecord, process: Process) -> Iterable[Record]:
    """Return the one record."""
    del process
    return [raw]


def preflight(records: Records, options: Options) -> Iterator[Finding]:
    """Find folders that are gone."""
    del options
    for record in records.of(FsRecord):
        cwd = os.path.dirname(record.cwd) if record.is_cwd_removed else record.cwd
        for path, called in ((cwd, "working folder"), (record.root, "root folder")):
            if not os.path.isdir(path):
                yield Finding(f"{called} {path!r}", "there is no such folder", "make it again")


def plan(records: Records, build: Builder) -> None:
    """Enter the folders and set the mask; a root other than ours comes last, for it ends paths."""
    by_ref = {record.ref: record for record in records.of(FsRecord)}
    for process in records.processes:
        if process.fs in by_ref:
            _plan_process(process, by_ref[process.fs], build)


def _plan_process(process: ProcessRecord, record: FsRecord, build: Builder) -> None:
    tgid = process.tgid
    build.tape(
        tgid,
        list(_folder_calls(record)),
        f"enter {record.cwd!r}",
        needs=[born(tgid)],
        after=[
            fds_placed(process.files),
            memory_filled(tgid),
            mm_fields_set(tgid),
            timens_entered(tgid),
            Token("paths-done", tgid),
        ],
        provides=[fs_set(tgid)],
    )


def _folder_calls(record: FsRecord) -> Iterator[Call]:
    cwd = c_string(record.cwd)
    if record.is_cwd_removed:
        yield Call(SYS_MKDIR, (cwd, 0o700))
        yield Call(SYS_CHDIR, (cwd,))
        yield Call(SYS_CHMOD, (c_string(b"."), record.cwd_mode & 0o7777))
        yield Call(SYS_RMDIR, (cwd,))
    else:
        yield Call(SYS_CHDIR, (cwd,))
    if record.root != b"/":
        yield Call(SYS_CHROOT, (c_string(record.root),))
    yield Call(SYS_UMASK, (record.umask,), expect=Expect.NOT_NEGATIVE)


def _is_removed(process: Process, name: str) -> bool:
    # A removed folder has no links left; ".." and "." went with it.
    return os.stat(process.path(name)).st_nlink == 0


def _leads_to(path: bytes, process: Process, name: str) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    opened = os.stat(process.path(name))
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


def _read_umask(process: Process) -> int:
    view = process.thread_views.get(process.living_tid)
    if view is not None and view.umask is not None:
        return view.umask
    for line in process.read("status").splitlines():
        if line.startswith(b"Umask:"):
            return int(line.split()[1], 8)
    raise ValueError("status has no Umask line")

"""Who gets SIGIO of a file: F_SETOWN_EX, F_SETSIG, O_ASYNC, set by the task with all threads.

An owner outside the process is refused: the number would name somebody else after a restore.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ckpt.errors import Finding
from ckpt.objects.file_kinds.common import O_ASYNC, SETFL, SYS_FCNTL, FileRecord, Placed, Table
from ckpt.objects.steps import Blob, Call, session_set, threads_exist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Builder, ProcessRecord

F_SETSIG: Final = 10
F_SETOWN_EX: Final = 15
_OWN_EX: Final = struct.Struct("<ii")
"""struct f_owner_ex, `include/uapi/asm-generic/fcntl.h`, 6.18."""
_F_OWNER_PGRP: Final = 2


def survey_owners(table: Table) -> Iterator[Finding]:
    """Refuse files whose signals go to somebody else."""
    process = table.process
    view = process.process_view
    inside = {process.tgid, *process.tids}
    groups = {process.tgid} if view is None else {process.tgid, view.pgrp}
    for file in table.files:
        pid = file.view.owner_pid
        if pid and pid not in (groups if file.view.owner_type == _F_OWNER_PGRP else inside):
            what = f"{table.describe(file)} sends SIGIO to {pid}, which is not this process"
            yield Finding(table.where(file), what, "clear it with fcntl(F_SETOWN, 0)")


def plan_owners(
    files: Iterable[FileRecord], placed: Placed, process: ProcessRecord, build: Builder
) -> None:
    """Let the task set the owners of its files."""
    calls: list[Call] = []
    for record in files:
        numbers = placed.numbers.get(record.ref)
        if numbers:
            calls.extend(_owner_calls(record, numbers[0]))
    if calls:
        build.tape(
            process.tgid,
            calls,
            "set who gets SIGIO",
            needs=[placed.placed, threads_exist(process.tgid)],
            after=[session_set(process.tgid)],
        )


def _owner_calls(record: FileRecord, fd: int) -> Iterator[Call]:
    owner = record.owner
    if owner is not None:
        if owner.signum:
            yield Call(SYS_FCNTL, (fd, F_SETSIG, owner.signum))
        if owner.pid:
            yield Call(SYS_FCNTL, (fd, F_SETOWN_EX, Blob(_OWN_EX.pack(owner.kind, owner.pid))))
    if record.flags & O_ASYNC:
        yield Call(SYS_FCNTL, (fd, SETFL, record.flags))

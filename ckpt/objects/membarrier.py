"""Registrations of membarrier(2): which expedited barriers a process may ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from ckpt.host.facts import U32
from ckpt.objects.base import Record
from ckpt.objects.steps import Call, born

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, Records

SYS_MEMBARRIER: Final = 324
"""`arch/x86/entry/syscalls/syscall_64.tbl`, 6.18."""

REGISTRATIONS: Final = (
    (1 << 3, 1 << 2, "global expedited"),
    (1 << 1, 1 << 4, "private expedited"),
    (1 << 5, 1 << 6, "private expedited, core serializing"),
    (1 << 7, 1 << 8, "private expedited, rseq"),
)
"""MEMBARRIER_STATE_* of mm->membarrier_state (`include/linux/sched/mm.h`, 6.18), and the
MEMBARRIER_CMD_REGISTER_* that sets it (`include/uapi/linux/membarrier.h`)."""


class MembarrierRecord(Record, frozen=True, tag="membarrier"):
    """The registrations of one process."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    commands: Annotated[list[U32], msgspec.Meta(max_length=32)]
    """MEMBARRIER_CMD_REGISTER_* that were made."""


RECORDS = (MembarrierRecord,)


def capture(process: Process) -> None:
    """Nothing: the view has the state, and no file shows it."""


def finish(raw: None, process: Process) -> Iterable[MembarrierRecord]:
    """Make a record when there is, or may be, a registration."""
    del raw
    state = process.mm_view.membarrier_state if process.mm_view else None
    if state is None:
        process.warn(
            f"process {process.tgid}",
            "membarrier registrations not seen: all but the global one are made",
        )
        commands = [command for _, command, _ in REGISTRATIONS[1:]]
    else:
        commands = [command for bit, command, _ in REGISTRATIONS if state & bit]
    return [MembarrierRecord(tgid=process.tgid, commands=commands)] if commands else []


def plan(records: Records, build: Builder) -> None:
    """Register again; nothing waits for it."""
    processes = {process.tgid: process for process in records.processes}
    names = {command: name for _, command, name in REGISTRATIONS}
    for record in records.of(MembarrierRecord):
        for command in record.commands:
            if command not in names:
                build.refuse(f"process {record.tgid}", f"unknown membarrier command {command:#x}")
        tid = processes[record.tgid].tids[0]
        calls = [Call(SYS_MEMBARRIER, (command,)) for command in record.commands]
        why = "membarrier: " + "; ".join(names.get(command, "?") for command in record.commands)
        build.tape(tid, calls, why, needs=(born(tid),))

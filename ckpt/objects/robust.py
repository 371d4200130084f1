"""Robust futex lists: the native head and the compat one, which only BPF can see.

Both are plain pointers that the kernel follows when the thread ends. The compat head is registered
by `int $0x80`, also in a 64-bit process; each thread registers its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckpt.objects.base import Record
from ckpt.objects.steps import Call, Entry, born, memory_filled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, Records

SYS_SET_ROBUST_LIST: Final = 273
I386_SET_ROBUST_LIST: Final = 311

HEAD_BYTES: Final = 24
COMPAT_HEAD_BYTES: Final = 12
"""sizeof struct robust_list_head and compat_robust_list_head, the only lengths that the kernel
takes (kernel/futex/syscalls.c, 6.18)."""


class RobustLists(Record, frozen=True, kw_only=True, tag="robust"):
    """Heads of one thread's robust futex lists; 0: not registered."""

    tid: int
    head: int
    compat_head: int = 0


RECORDS = (RobustLists,)


def finish(raw: object, process: Process) -> Iterable[RobustLists]:  # noqa: ARG001
    """Make a record for each thread that has registered a list."""
    compat_unseen = 0
    for tid in process.tids:
        view = process.thread_views.get(tid)
        if view is None:
            process.warn(f"tid {tid}", "robust futex lists were not seen")
            continue
        compat_unseen += view.compat_robust_list is None
        if view.robust_list or view.compat_robust_list:
            yield RobustLists(
                tid=tid, head=view.robust_list, compat_head=view.compat_robust_list or 0
            )
    if compat_unseen:
        process.warn(
            f"process {process.tgid}",
            f"compat robust futex lists of {compat_unseen} threads cannot be seen without BPF "
            "(64-bit programs hardly ever have one)",
        )


def plan(records: Records, build: Builder) -> None:
    """Register both heads again, each thread its own."""
    process_of = {tid: process.tgid for process in records.processes for tid in process.tids}
    for record in records.of(RobustLists):
        calls = []
        if record.head:
            calls.append(Call(SYS_SET_ROBUST_LIST, (record.head, HEAD_BYTES)))
        if record.compat_head:
            args = (record.compat_head, COMPAT_HEAD_BYTES)
            calls.append(Call(I386_SET_ROBUST_LIST, args, entry=Entry.INT80))
        # After the memory: if the restore fails, the kernel walks the list of a killed thread.
        build.tape(
            record.tid,
            calls,
            "robust futex lists",
            needs=(born(record.tid),),
            after=(memory_filled(process_of.get(record.tid, record.tid)),),
        )

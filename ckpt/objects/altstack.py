"""Alternate signal stacks, as the kernel holds them for each thread.

A thread may be running on its alternate stack at the snapshot. sigaltstack(2) refuses a change only
when the **caller's** stack pointer lies on the stack that is registered (`on_sig_stack`,
include/linux/sched/signal.h); a fresh thread has none registered, so the first call always passes,
wherever rsp points. SS_ONSTACK is derived from rsp and comes back with the registers. With
SS_AUTODISARM the kernel forgets the stack while a handler runs on it and sigreturn brings it back
from the frame: then nothing is registered at the snapshot, and nothing is set here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ckpt.objects.base import Record
from ckpt.objects.steps import Blob, Call, born

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, Records

SYS_SIGALTSTACK: Final = 131

STACK_T: Final = struct.Struct("<Qi4xQ")
"""stack_t, 24 bytes: ss_sp, ss_flags, ss_size (include/uapi/asm-generic/signal.h, 6.18)."""

SS_DISABLE: Final = 2
SS_AUTODISARM: Final = 1 << 31


class AltStack(Record, frozen=True, kw_only=True, tag="altstack"):
    """The alternate stack that one thread has registered."""

    tid: int
    sp: int
    size: int
    flags: int
    """As they were given to sigaltstack(2), SS_AUTODISARM included."""


RECORDS = (AltStack,)


def finish(raw: object, process: Process) -> Iterable[AltStack]:  # noqa: ARG001
    """Make a record for each thread that has an alternate stack."""
    unseen = 0
    for tid in process.tids:
        view = process.thread_views.get(tid)
        if view is None or view.sas_ss_size is None:
            unseen += 1
        elif view.sas_ss_size and not (view.sas_ss_flags or 0) & SS_DISABLE:
            yield AltStack(
                tid=tid,
                sp=view.sas_ss_sp or 0,
                size=view.sas_ss_size,
                flags=(view.sas_ss_flags or 0) & 0xFFFF_FFFF,
            )
    if unseen:
        process.warn(
            f"process {process.tgid}",
            f"alternate signal stacks of {unseen} threads cannot be seen without BPF: "
            "their signal handlers will run on the normal stack",
        )


def plan(records: Records, build: Builder) -> None:
    """Register each thread's stack again, by the thread itself."""
    for record in records.of(AltStack):
        flags = record.flags - (1 << 32) if record.flags >> 31 else record.flags
        stack = Blob(STACK_T.pack(record.sp, flags, record.size))
        build.tape(
            record.tid,
            (Call(SYS_SIGALTSTACK, (stack, 0)),),
            "alternate signal stack",
            needs=(born(record.tid),),
        )

"""Signal dispositions: what each of the 64 signals does, once per sighand."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ckpt.errors import PlanError
from ckpt.objects import siginfo
from ckpt.objects.base import Plain, Record
from ckpt.objects.last_calls import SYS_RT_SIGACTION, LastCalls, last_dispositions_set
from ckpt.objects.steps import (
    Blob,
    Call,
    born,
    dispositions_set,
    last_signals_queued,
    restart_armed,
    thread_done,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.host.kernel_view import SigAction
    from ckpt.objects.base import Builder, Process, ProcessRecord, Records

SIGACTION: Final = struct.Struct("<QQQQ")
"""struct kernel_sigaction of x86_64: handler, flags, restorer, mask
(arch/x86/include/uapi/asm/signal.h, 6.18)."""

SIG_IGN: Final = 1
SIGTRAP: Final = 5

_SIGSET_BYTES: Final = 8
_NEVER_SET: Final = frozenset((siginfo.SIGKILL, siginfo.SIGSTOP))


class Disposition(Plain, frozen=True):
    """What one signal does; `handler` 0 is SIG_DFL, 1 SIG_IGN."""

    signo: int
    handler: int
    flags: int
    restorer: int
    mask: int


class Sighand(Record, frozen=True, kw_only=True, tag="sighand"):
    """struct sighand_struct: the signals that are not at their default."""

    ref: int
    dispositions: list[Disposition]


RECORDS = (Sighand,)


def finish(raw: object, process: Process) -> Iterable[Sighand]:  # noqa: ARG001
    """Make the record."""
    view = process.process_view
    if view is None or view.sigactions is None:
        process.refuse(
            f"process {process.tgid}",
            "signal handlers cannot be seen",
            "snapshot as root, with BPF or with a thread stopped at a system call",
        )
        return
    dispositions = [
        Disposition(signo, action.handler, action.flags, action.restorer, action.mask)
        for signo, action in enumerate(view.sigactions, 1)
        if not _is_default(action)
    ]
    ref = process.identities.ref("sighand", process.tgid)
    yield Sighand(ref=ref, dispositions=dispositions)


def _is_default(action: SigAction) -> bool:
    return not (action.handler or action.flags or action.restorer or action.mask)


def plan(records: Records, build: Builder) -> None:
    """Set the dispositions of each process."""
    sighands = {record.ref: record for record in records.of(Sighand)}
    for process in records.processes:
        if process.sighand not in sighands:
            raise PlanError("no signal dispositions", where=f"process {process.tgid}")
        _plan_dispositions(process, sighands[process.sighand], build)


def _plan_dispositions(process: ProcessRecord, sighand: Sighand, build: Builder) -> None:
    """Set all 62: a program that is started keeps what its parent had ignored."""
    default = Blob(SIGACTION.pack(0, 0, 0, 0))
    recorded = {
        one.signo: Blob(SIGACTION.pack(one.handler, one.flags, one.restorer, one.mask))
        for one in sighand.dispositions
    }
    calls = {
        signo: Call(SYS_RT_SIGACTION, (signo, recorded.get(signo, default), 0, _SIGSET_BYTES))
        for signo in range(1, siginfo.SIGNALS + 1)
        if signo not in _NEVER_SET
    }
    build.tape(
        process.tgid,
        calls.values(),
        f"dispositions: {len(recorded)} signals are not at their default",
        needs=(born(process.tgid),),
        provides=(dispositions_set(process.tgid),),
    )
    ignored = {one.signo for one in sighand.dispositions if one.handler == SIG_IGN}
    if SIGTRAP in ignored:
        tid = process.tids[0]
        build.ptrace(
            tid,
            LastCalls(tid, [calls[SIGTRAP]]),
            "ignore SIGTRAP, now that no trap follows",
            needs=(born(tid),),
            after=(*map(thread_done, process.tids), *map(restart_armed, process.tids)),
            provides=(last_dispositions_set(process.tgid), last_signals_queued(tid)),
        )

"""Attributes that each thread has of its own, set by prctl(2), arch_prctl(2) and personality(2).

Parent-death signal, personality, faulting RDTSC and CPUID, I/O flusher, memory failure policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ckpt.host.facts import S32, U32
from ckpt.host.status import read_small
from ckpt.objects.base import Record
from ckpt.objects.steps import (
    Call,
    Token,
    born,
    creds_set,
    memory_filled,
    seccomp_set,
    threads_exist,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckpt.host.kernel_view import ThreadView
    from ckpt.objects.base import Builder, Process, Records

# `arch/x86/entry/syscalls/syscall_64.tbl`, 6.18.
SYS_PERSONALITY: Final = 135
SYS_PRCTL: Final = 157
SYS_ARCH_PRCTL: Final = 158

# `include/uapi/linux/prctl.h`, 6.18.
PR_SET_PDEATHSIG: Final = 1
PR_SET_TSC: Final = 26
PR_TSC_SIGSEGV: Final = 2
PR_MCE_KILL: Final = 33
PR_MCE_KILL_SET: Final = 1
PR_MCE_KILL_LATE: Final = 0
PR_MCE_KILL_EARLY: Final = 1
PR_SET_IO_FLUSHER: Final = 57
ARCH_SET_CPUID: Final = 0x1012
"""`arch/x86/include/uapi/asm/prctl.h`"""

# task->flags, `include/linux/sched.h`, 6.18.
PF_MCE_PROCESS: Final = 0x80
PF_MEMALLOC_NOIO: Final = 0x80000
PF_LOCAL_THROTTLE: Final = 0x100000
PF_MCE_EARLY: Final = 0x0800_0000
PF_IO_FLUSHER: Final = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE


class ModeBits(NamedTuple):
    """Where thread_info.flags says that CPUID or RDTSC fault."""

    fpu: int
    """TIF_NEED_FPU_LOAD: set in every stopped thread, so it tells which layout a kernel has."""
    no_cpuid: int
    no_tsc: int


# `arch/x86/include/asm/thread_info.h`: the bits until, and since, "x86: Use generic TIF bits".
_LAYOUTS: Final = (ModeBits(14, 15, 16), ModeBits(19, 20, 21))


class ThreadAttributesRecord(Record, frozen=True, tag="thread_attributes"):
    """Attributes that all of `tids` have."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    tids: list[int]
    personality: U32
    pdeath_signal: U32 | None
    tsc_faults: bool | None
    cpuid_faults: bool | None
    is_io_flusher: bool | None
    mce_policy: S32 | None
    """PR_MCE_KILL_LATE, PR_MCE_KILL_EARLY; -1: the system's default."""


RECORDS = (ThreadAttributesRecord,)


def capture(process: Process) -> dict[int, int]:
    """Read each personality, unless views have them."""
    if process.thread_views:
        return {}
    return {tid: int(read_small(process.path("personality", tid)), 16) for tid in process.tids}


def finish(raw: dict[int, int], process: Process) -> Iterable[ThreadAttributesRecord]:
    """Make one record for each set of threads that are alike."""
    groups: dict[_Attributes, list[int]] = {}
    for tid in process.tids:
        found = _of_thread(process.thread_views.get(tid), raw.get(tid, 0))
        groups.setdefault(found, []).append(tid)
    _warn_of_gaps(process, list(groups))
    for found, tids in groups.items():
        yield ThreadAttributesRecord(tgid=process.tgid, tids=tids, **found._asdict())


class _Attributes(NamedTuple):
    """The fields of a record that tell threads apart."""

    personality: int
    pdeath_signal: int | None
    tsc_faults: bool | None
    cpuid_faults: bool | None
    is_io_flusher: bool | None
    mce_policy: int | None


def _of_thread(view: ThreadView | None, personality: int) -> _Attributes:
    if view is None:
        return _Attributes(personality, None, None, None, None, None)
    tsc, cpuid = _fault_modes(view.ti_flags)
    if view.ti_flags is None:
        tsc, cpuid = view.tsc_faults, view.cpuid_faults
    flags = view.flags
    return _Attributes(
        view.personality,
        view.pdeath_signal,
        tsc,
        cpuid,
        None if flags is None else flags & PF_IO_FLUSHER == PF_IO_FLUSHER,
        None if flags is None else mce_policy(flags),
    )


def _fault_modes(flags: int | None) -> tuple[bool | None, bool | None]:
    """Return whether RDTSC and CPUID fault, from thread_info.flags of a stopped thread."""
    if flags is None:
        return None, None
    layouts = [bits for bits in _LAYOUTS if flags >> bits.fpu & 1]
    if len(layouts) != 1:
        return None, None
    return bool(flags >> layouts[0].no_tsc & 1), bool(flags >> layouts[0].no_cpuid & 1)


def mce_policy(flags: int) -> int:
    """Return PR_MCE_KILL_* of task->flags; -1 when the task has no policy of its own."""
    if not flags & PF_MCE_PROCESS:
        return -1
    return PR_MCE_KILL_EARLY if flags & PF_MCE_EARLY else PR_MCE_KILL_LATE


def _warn_of_gaps(process: Process, found: Sequence[_Attributes]) -> None:
    names = ("pdeath_signal", "tsc_faults", "cpuid_faults", "is_io_flusher", "mce_policy")
    unseen = [name for name in names if any(getattr(each, name) is None for each in found)]
    if unseen:
        process.warn(f"process {process.tgid}", f"not seen, taken as default: {', '.join(unseen)}")


def notices_parent(records: Records) -> bool:
    """Tell whether the end of its parent would send the restored process a signal."""
    return any(record.pdeath_signal for record in records.of(ThreadAttributesRecord))


def plan(records: Records, build: Builder) -> None:
    """Set what differs from what a thread inherits: early what hinders nothing, the rest late."""
    for record in records.of(ThreadAttributesRecord):
        _plan_threads(record, build)


def _plan_threads(record: ThreadAttributesRecord, build: Builder) -> None:
    early, late = tuple(_early_calls(record, build)), tuple(_late_calls(record))
    ordered = (threads_exist(record.tgid), memory_filled(record.tgid))
    for tid in record.tids if early else ():
        build.tape(
            tid,
            early,
            "thread attributes",
            needs=(born(tid),),
            after=ordered,
            provides=(Token("attributes", record.tgid),),
        )
    for tid in record.tids if late else ():
        build.tape(
            tid,
            late,
            "parent-death signal and TSC mode",
            needs=(born(tid),),
            after=(*ordered, creds_set(tid), seccomp_set(tid)),
        )


def _early_calls(record: ThreadAttributesRecord, build: Builder) -> Iterator[Call]:
    inherited = build.host.inherited
    if record.personality != inherited.personality:
        yield Call(SYS_PERSONALITY, (record.personality,), inherited.personality)
    if record.is_io_flusher:
        yield Call(SYS_PRCTL, (PR_SET_IO_FLUSHER, 1))
    policy = record.mce_policy
    if policy is not None and policy >= 0 and policy != mce_policy(inherited.task_flags):
        yield Call(SYS_PRCTL, (PR_MCE_KILL, PR_MCE_KILL_SET, policy))
    if record.cpuid_faults:
        if not build.host.features.get("cpuid_faulting", True):
            build.refuse(f"tid {record.tids[0]}", "CPUID faults, which this CPU cannot do")
        yield Call(SYS_ARCH_PRCTL, (ARCH_SET_CPUID, 0))


def _late_calls(record: ThreadAttributesRecord) -> Iterator[Call]:
    if record.pdeath_signal:
        yield Call(SYS_PRCTL, (PR_SET_PDEATHSIG, record.pdeath_signal))
    if record.tsc_faults:
        yield Call(SYS_PRCTL, (PR_SET_TSC, PR_TSC_SIGSEGV))

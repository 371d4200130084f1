"""Attributes of a process and of its threads that prctl(2), arch_prctl(2) and /proc files set.

Of the process: dumpable, child subreaper, huge pages, MDWE, memory merging, core dump filter, OOM
adjustment. Of each thread: parent-death signal, personality, TSC and CPUID faulting, I/O flusher,
memory failure policy. Which prctl options belong to another noun (securebits, seccomp, timer slack,
speculation, mm fields) is found in the module of that name.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ckpt.host.status import parse_fields, read_small
from ckpt.objects.base import Record
from ckpt.objects.steps import (
    Call,
    Token,
    born,
    creds_set,
    memory_filled,
    memory_mapped,
    mm_fields_set,
    seccomp_set,
    threads_exist,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.host.kernel_view import MmView, ThreadView
    from ckpt.objects.base import Builder, Process, ProcessRecord, Records, Restorer

# `arch/x86/entry/syscalls/syscall_64.tbl`, 6.18.
SYS_PERSONALITY: Final = 135
SYS_PRCTL: Final = 157
SYS_ARCH_PRCTL: Final = 158

# `include/uapi/linux/prctl.h`, 6.18.
PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_TSC: Final = 26
PR_TSC_SIGSEGV: Final = 2
PR_MCE_KILL: Final = 33
PR_MCE_KILL_SET: Final = 1
PR_MCE_KILL_LATE: Final = 0
PR_MCE_KILL_EARLY: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_THP_DISABLE: Final = 41
PR_SET_IO_FLUSHER: Final = 57
PR_SET_MDWE: Final = 65
PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
PR_MDWE_NO_INHERIT: Final = 2
PR_SET_MEMORY_MERGE: Final = 67
ARCH_SET_CPUID: Final = 0x1012
"""`arch/x86/include/uapi/asm/prctl.h`"""

# task->flags, `include/linux/sched.h`, 6.18.
PF_MCE_PROCESS: Final = 0x80
PF_MEMALLOC_NOIO: Final = 0x80000
PF_LOCAL_THROTTLE: Final = 0x100000
PF_MCE_EARLY: Final = 0x0800_0000
PF_IO_FLUSHER: Final = PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE

CAP_SYS_RESOURCE: Final = 24
SUID_DUMP_ROOT: Final = 2


class ModeBits(NamedTuple):
    """Where thread_info.flags says that CPUID or RDTSC fault."""

    fpu: int
    """TIF_NEED_FPU_LOAD: set in every stopped thread, so it tells which layout a kernel has."""
    no_cpuid: int
    no_tsc: int


# `arch/x86/include/asm/thread_info.h`: the bits until, and since, "x86: Use generic TIF bits".
_LAYOUTS: Final = (ModeBits(14, 15, 16), ModeBits(19, 20, 21))


class AttributesRecord(Record, frozen=True, tag="attributes"):
    """Attributes of one process. None: not seen; a restored process then has the default."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    dumpable: int | None
    is_subreaper: bool | None
    thp_disabled: bool | None
    mdwe: int | None
    """PR_MDWE_* bits."""
    merges_memory: bool
    coredump_filter: int
    oom_score_adj: int


class ThreadAttributesRecord(Record, frozen=True, tag="thread_attributes"):
    """Attributes that all of `tids` have."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    tids: list[int]
    personality: int
    pdeath_signal: int | None
    tsc_faults: bool | None
    cpuid_faults: bool | None
    is_io_flusher: bool | None
    mce_policy: int | None
    """PR_MCE_KILL_LATE, PR_MCE_KILL_EARLY; -1: the system's default."""


RECORDS = (AttributesRecord, ThreadAttributesRecord)


class Raw(NamedTuple):
    """What /proc says while frozen."""

    coredump_filter: int
    oom_score_adj: int
    merges_memory: bool
    thp_enabled: bool | None
    personalities: dict[int, int]


def capture(process: Process) -> Raw:
    """Read the few /proc files that BPF need not replace."""
    thp = parse_fields(process.read("status")).get(b"THP_enabled")
    personalities = {}
    if not process.thread_views:
        personalities = {
            tid: int(read_small(process.path("personality", tid)), 16) for tid in process.tids
        }
    return Raw(
        int(_read_of_process(process, "coredump_filter"), 16),
        int(process.read("oom_score_adj")),
        b"ksm_merge_any: yes" in _read_optional(process, "ksm_stat"),
        None if thp is None else thp.strip() == b"1",
        personalities,
    )


def _read_of_process(process: Process, name: str) -> bytes:
    """Read a file that stands in a task's numeric folder only, by a living thread's number."""
    return read_small(f"/proc/{process.living_tid}/{name}")


def _read_optional(process: Process, name: str) -> bytes:
    try:
        return _read_of_process(process, name)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESRCH, errno.EACCES, errno.EPERM):
            raise
        return b""


def finish(raw: Raw, process: Process) -> Iterable[Record]:
    """Make the process's record, and one for each set of threads that are alike."""
    mm, view = process.mm_view, process.process_view
    disabled = None if raw.thp_enabled is None else not raw.thp_enabled
    process_record = AttributesRecord(
        tgid=process.tgid,
        dumpable=mm.dumpable if mm else None,
        is_subreaper=view.is_child_subreaper if view else None,
        thp_disabled=mm.thp_disabled if mm and mm.thp_disabled is not None else disabled,
        mdwe=_mdwe(mm),
        merges_memory=raw.merges_memory,
        coredump_filter=raw.coredump_filter,
        oom_score_adj=raw.oom_score_adj,
    )
    groups: dict[tuple[object, ...], list[int]] = {}
    for tid in process.tids:
        attributes = _of_thread(process.thread_views.get(tid), raw.personalities.get(tid, 0))
        groups.setdefault(attributes, []).append(tid)
    threads = [_thread_record(process.tgid, tids, found) for found, tids in groups.items()]
    _warn_of_gaps(process, process_record, threads)
    return [process_record, *threads]


def _mdwe(mm: MmView | None) -> int | None:
    if mm is None or mm.has_mdwe is None:
        return None
    no_inherit = PR_MDWE_NO_INHERIT if mm.has_mdwe_no_inherit else 0
    return PR_MDWE_REFUSE_EXEC_GAIN | no_inherit if mm.has_mdwe else 0


def _of_thread(view: ThreadView | None, personality: int) -> tuple[object, ...]:
    if view is None:
        return personality, None, None, None, None, None
    tsc, cpuid = _fault_modes(view.ti_flags)
    flusher = None if view.flags is None else view.flags & PF_IO_FLUSHER == PF_IO_FLUSHER
    return (
        view.personality,
        view.pdeath_signal,
        tsc,
        cpuid,
        flusher,
        None if view.flags is None else mce_policy(view.flags),
    )


def _thread_record(tgid: int, tids: list[int], found: tuple[object, ...]) -> ThreadAttributesRecord:
    names = (
        "personality",
        "pdeath_signal",
        "tsc_faults",
        "cpuid_faults",
        "is_io_flusher",
        "mce_policy",
    )
    fields: dict[str, object] = dict(zip(names, found, strict=True))
    return ThreadAttributesRecord(tgid=tgid, tids=tids, **fields)  # type: ignore[arg-type]


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


def _warn_of_gaps(
    process: Process, record: AttributesRecord, threads: list[ThreadAttributesRecord]
) -> None:
    unseen = [
        name
        for name, value in (
            ("dumpable", record.dumpable),
            ("child subreaper", record.is_subreaper),
            ("MDWE", record.mdwe),
        )
        if value is None
    ]
    for name in ("pdeath_signal", "tsc_faults", "cpuid_faults", "is_io_flusher"):
        if any(getattr(thread, name) is None for thread in threads):
            unseen.append(name)
    if unseen:
        process.warn(f"process {process.tgid}", f"not seen, taken as default: {', '.join(unseen)}")


class WriteProc:
    """Write a number to a /proc file of a restored task."""

    def __init__(self, tid: int, name: str, value: str, *, may_fail: bool = False) -> None:
        self.tid = tid
        self.name = name
        self.value = value
        self.may_fail = may_fail
        """The plan has warned that the kernel may forbid it."""

    def perform(self, restorer: Restorer) -> None:
        """Open, write, close."""
        try:
            with open(restorer.proc_path(self.tid, self.name), "w") as file:
                file.write(self.value)
        except PermissionError:
            if not self.may_fail:
                raise

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"write {self.value} to {self.name} of tid {self.tid}"


def plan(records: Records, build: Builder) -> None:
    """Set what differs from a fresh task: early what hinders nothing, late what would."""
    processes = {process.tgid: process for process in records.processes}
    for record in records.of(AttributesRecord):
        _plan_early(record, processes[record.tgid], build)
        _plan_dumpable(record, processes[record.tgid], build)
    for threads in records.of(ThreadAttributesRecord):
        _plan_threads(threads, build)


def _plan_early(record: AttributesRecord, process: ProcessRecord, build: Builder) -> None:
    tid = process.tids[0]
    calls = []
    if record.is_subreaper:
        calls.append(Call(SYS_PRCTL, (PR_SET_CHILD_SUBREAPER, 1)))
    if record.thp_disabled:
        calls.append(Call(SYS_PRCTL, (PR_SET_THP_DISABLE, 1)))
    if record.merges_memory:
        calls.append(Call(SYS_PRCTL, (PR_SET_MEMORY_MERGE, 1)))
    given = (Token("attributes", record.tgid),)
    if calls:
        build.tape(tid, calls, "process attributes", needs=(born(tid),), provides=given)
    if record.mdwe:
        # Nothing may become executable afterwards, so memory has to be complete.
        after = (memory_mapped(record.tgid), memory_filled(record.tgid), mm_fields_set(record.tgid))
        call = Call(SYS_PRCTL, (PR_SET_MDWE, record.mdwe))
        build.tape(tid, (call,), "MDWE", needs=(born(tid),), after=after, provides=given)
    inherited = build.host.inherited
    if record.coredump_filter != inherited.coredump_filter:
        action = WriteProc(tid, "coredump_filter", f"{record.coredump_filter:#x}")
        build.host_step(action, "core dump filter", needs=(born(tid),), provides=given)
    if record.oom_score_adj != inherited.oom_score_adj:
        _plan_oom(record, tid, build)


def _plan_oom(record: AttributesRecord, tid: int, build: Builder) -> None:
    may_fail = (
        record.oom_score_adj < build.host.inherited.oom_score_adj
        and not build.host.has_capability(CAP_SYS_RESOURCE)
    )
    if may_fail:
        build.warn(
            f"process {record.tgid}",
            f"oom_score_adj {record.oom_score_adj} may be below what we may set",
            "restore with CAP_SYS_RESOURCE",
        )
    action = WriteProc(tid, "oom_score_adj", str(record.oom_score_adj), may_fail=may_fail)
    given = (Token("attributes", record.tgid),)
    build.host_step(action, "OOM adjustment", needs=(born(tid),), provides=given)


def _plan_dumpable(record: AttributesRecord, process: ProcessRecord, build: Builder) -> None:
    """Set dumpable when every thread has its credentials: each change of ids resets it."""
    dumpable = 1 if record.dumpable is None else record.dumpable
    if dumpable == SUID_DUMP_ROOT:
        what = "dumpable is 2 (core dumps for root only), which no call can set: it becomes 0"
        build.warn(f"process {record.tgid}", what)
        dumpable = 0
    tid = process.tids[0]
    build.tape(
        tid,
        (Call(SYS_PRCTL, (PR_SET_DUMPABLE, dumpable)),),
        "dumpable",
        needs=(born(tid),),
        after=(threads_exist(record.tgid), *(creds_set(each) for each in process.tids)),
        provides=(Token("dumpable", record.tgid),),
    )


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

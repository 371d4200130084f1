"""Attributes of a whole process that prctl(2) and /proc files set.

Dumpable, child subreaper, huge pages, MDWE, memory merging, core dump filter, OOM adjustment. What
each thread has of its own is in `thread_attributes`; options that belong to another noun
(securebits, seccomp, timer slack, speculation, mm fields) are in the module of that name.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ckpt.host.facts import S32, U32
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
    threads_exist,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.host.kernel_view import MmView
    from ckpt.objects.base import Builder, Process, ProcessRecord, Records, Restorer

# `arch/x86/entry/syscalls/syscall_64.tbl`, 6.18.
SYS_PRCTL: Final = 157

# `include/uapi/linux/prctl.h`, 6.18.
PR_SET_DUMPABLE: Final = 4
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_THP_DISABLE: Final = 41
PR_THP_DISABLE_EXCEPT_ADVISED: Final = 1 << 1
PR_SET_MDWE: Final = 65
PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
PR_MDWE_NO_INHERIT: Final = 2
PR_SET_MEMORY_MERGE: Final = 67

MMF_DISABLE_THP_EXCEPT_ADVISED: Final = 1 << 23
"""`include/linux/mm_types.h`, 6.18."""
CAP_SYS_RESOURCE: Final = 24
SUID_DUMP_ROOT: Final = 2


class AttributesRecord(Record, frozen=True, tag="attributes"):
    """Attributes of one process. None: not seen; a restored process then has the default."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    dumpable: U32 | None
    is_subreaper: bool | None
    thp_disabled: bool | None
    thp_except_advised: bool
    """Huge pages are disabled, but not where madvise asked for them."""
    mdwe: U32 | None
    """PR_MDWE_* bits."""
    merges_memory: bool
    coredump_filter: U32
    oom_score_adj: S32


RECORDS = (AttributesRecord,)


class Raw(NamedTuple):
    """What /proc says while frozen."""

    coredump_filter: int
    oom_score_adj: int
    merges_memory: bool
    thp_enabled: bool | None


def capture(process: Process) -> Raw:
    """Read the few /proc files that BPF need not replace."""
    thp = parse_fields(process.read("status")).get(b"THP_enabled")
    return Raw(
        int(_read_of_process(process, "coredump_filter"), 16),
        int(process.read("oom_score_adj")),
        b"ksm_merge_any: yes" in _read_optional(process, "ksm_stat"),
        None if thp is None else thp.strip() == b"1",
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


def finish(raw: Raw, process: Process) -> Iterable[AttributesRecord]:
    """Make the record."""
    mm, view = process.mm_view, process.process_view
    disabled = None if raw.thp_enabled is None else not raw.thp_enabled
    record = AttributesRecord(
        tgid=process.tgid,
        dumpable=mm.dumpable if mm else None,
        is_subreaper=view.is_child_subreaper if view else None,
        thp_disabled=mm.thp_disabled if mm and mm.thp_disabled is not None else disabled,
        thp_except_advised=_is_except_advised(mm),
        mdwe=_mdwe(mm),
        merges_memory=raw.merges_memory,
        coredump_filter=raw.coredump_filter,
        oom_score_adj=raw.oom_score_adj,
    )
    _warn_of_gaps(process, record)
    return (record,)


def _is_except_advised(mm: MmView | None) -> bool:
    """Read a bit that older kernels used for something else (MMF_HUGE_ZERO_PAGE)."""
    if mm is None or mm.flags is None or not mm.flags & MMF_DISABLE_THP_EXCEPT_ADVISED:
        return False
    from ckpt.host.probe import has_thp_except_advised

    return has_thp_except_advised()


def _mdwe(mm: MmView | None) -> int | None:
    if mm is None or mm.has_mdwe is None:
        return None
    no_inherit = PR_MDWE_NO_INHERIT if mm.has_mdwe_no_inherit else 0
    return PR_MDWE_REFUSE_EXEC_GAIN | no_inherit if mm.has_mdwe else 0


def _warn_of_gaps(process: Process, record: AttributesRecord) -> None:
    seen = {
        "dumpable": record.dumpable,
        "child subreaper": record.is_subreaper,
        "MDWE": record.mdwe,
    }
    unseen = ", ".join(name for name, value in seen.items() if value is None)
    if unseen:
        process.warn(f"process {process.tgid}", f"not seen, taken as default: {unseen}")


class WriteProc:
    """Write a number to a /proc file of a restored task."""

    def __init__(self, tid: int, name: str, value: str, *, may_fail: bool = False) -> None:
        self.tid = tid
        self.name = name
        self.value = value
        self.may_fail = may_fail
        """The plan has warned that the kernel may forbid it."""

    def perform(self, restorer: Restorer) -> None:
        """Open, write, close. Some of these files stand in the numeric folder only."""
        del restorer
        try:
            with open(f"/proc/{self.tid}/{self.name}", "w") as file:
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


def _plan_early(record: AttributesRecord, process: ProcessRecord, build: Builder) -> None:
    tid = process.tids[0]
    calls = []
    if record.is_subreaper:
        calls.append(Call(SYS_PRCTL, (PR_SET_CHILD_SUBREAPER, 1)))
    if record.thp_disabled:
        calls.append(Call(SYS_PRCTL, (PR_SET_THP_DISABLE, 1)))
    elif record.thp_except_advised:
        calls += _except_advised_calls(record, build)
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


def _except_advised_calls(record: AttributesRecord, build: Builder) -> list[Call]:
    if not build.host.features.get("thp_except_advised", True):
        what = "huge pages will not be limited to advised areas: this kernel cannot"
        build.warn(f"process {record.tgid}", what)
        return []
    return [Call(SYS_PRCTL, (PR_SET_THP_DISABLE, 1, PR_THP_DISABLE_EXCEPT_ADVISED))]


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

"""Speculation controls of each thread (PR_SET_SPECULATION_CTRL), where the CPU is vulnerable."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.host.facts import U32
from ckpt.host.status import parse_speculation
from ckpt.objects.base import Record
from ckpt.objects.statuses import Statuses, read_statuses
from ckpt.objects.steps import Call, born, creds_set, seccomp_set, threads_exist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Builder, Process, Records

SYS_PRCTL: Final = 157
# `include/uapi/linux/prctl.h`, 6.18.
PR_SET_SPECULATION_CTRL: Final = 53
PR_SPEC_STORE_BYPASS: Final = 0
PR_SPEC_INDIRECT_BRANCH: Final = 1
PR_SPEC_ENABLE: Final = 1 << 1
PR_SPEC_DISABLE: Final = 1 << 2
PR_SPEC_FORCE_DISABLE: Final = 1 << 3
PR_SPEC_DISABLE_NOEXEC: Final = 1 << 4

# The kernel's words (`fs/proc/array.c`, 6.18) for what a thread itself has chosen. All others
# ("not vulnerable", "vulnerable", "globally mitigated", "always enabled", ...) are the machine's.
STORE_BYPASS_WORDS: Final = {
    "thread vulnerable": PR_SPEC_ENABLE,
    "thread mitigated": PR_SPEC_DISABLE,
    "thread force mitigated": PR_SPEC_FORCE_DISABLE,
}
INDIRECT_BRANCH_WORDS: Final = {
    "conditional enabled": PR_SPEC_ENABLE,
    "conditional disabled": PR_SPEC_DISABLE,
    "conditional force disabled": PR_SPEC_FORCE_DISABLE,
}


class SpeculationRecord(Record, frozen=True, tag="speculation"):
    """The choices that all of `tids` made: PR_SPEC_* values; 0: the machine leaves no choice."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    tids: list[int]
    store_bypass: U32
    indirect_branch: U32


RECORDS = (SpeculationRecord,)


def capture(process: Process) -> Statuses:
    """Read the status files, unless another module has done so."""
    return read_statuses(process)


def finish(raw: Statuses, process: Process) -> Iterable[SpeculationRecord]:
    """Make one record for each set of threads that are alike; none where nothing can be chosen."""
    for tids, fields in raw.groups((b"Speculation_Store_Bypass", b"Cpus_allowed")):
        choice = choices(*parse_speculation(fields))
        if choice != (0, 0):
            yield SpeculationRecord(
                tgid=process.tgid, tids=tids, store_bypass=choice[0], indirect_branch=choice[1]
            )


def choices(store_bypass: str, indirect_branch: str) -> tuple[int, int]:
    """Turn the words of a status file into PR_SPEC_* values."""
    return (
        STORE_BYPASS_WORDS.get(store_bypass, 0),
        INDIRECT_BRANCH_WORDS.get(indirect_branch, 0),
    )


def plan(records: Records, build: Builder) -> None:
    """Make each choice again, on each thread, when nothing else changes it any more."""
    own = choices(*build.host.inherited.speculation)
    for record in records.of(SpeculationRecord):
        calls = tuple(_calls(record, own, build))
        for tid in record.tids if calls else ():
            build.tape(
                tid,
                calls,
                "speculation controls",
                needs=(born(tid),),
                after=(threads_exist(record.tgid), creds_set(tid), seccomp_set(tid)),
            )


def _calls(record: SpeculationRecord, own: tuple[int, int], build: Builder) -> Iterator[Call]:
    for which, want, here, name in (
        (PR_SPEC_STORE_BYPASS, record.store_bypass, own[0], "store bypass"),
        (PR_SPEC_INDIRECT_BRANCH, record.indirect_branch, own[1], "indirect branches"),
    ):
        if not want or want == here:
            continue
        if not here:
            what = f"speculation control of {name} does not exist on this machine"
            build.warn(f"tid {record.tids[0]}", what)
            continue
        yield Call(SYS_PRCTL, (PR_SET_SPECULATION_CTRL, which, want))

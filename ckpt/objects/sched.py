"""Scheduling of each thread: policy, priority, nice, deadline parameters, CPUs, ioprio, slack.

Owns what sched_setattr, sched_setaffinity, ioprio_set and PR_SET_TIMERSLACK set. Utilisation clamps
and autogroups are not restored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from ckpt.host.facts import U64, Scheduling
from ckpt.host.scheduling import (
    IOPRIO_WHO_PROCESS,
    SCHED_ATTR,
    RawScheduling,
    decode_scheduling,
    read_raw,
)
from ckpt.objects.base import Record
from ckpt.objects.steps import Blob, Call, Token, born, threads_exist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Builder, Process, Records

# `arch/x86/entry/syscalls/syscall_64.tbl`, 6.18.
SYS_PRCTL: Final = 157
SYS_SCHED_SETAFFINITY: Final = 203
SYS_IOPRIO_SET: Final = 251
SYS_SCHED_SETATTR: Final = 314
PR_SET_TIMERSLACK: Final = 29
"""`include/uapi/linux/prctl.h`"""

# `include/uapi/linux/sched.h`, 6.18.
SCHED_NORMAL: Final = 0
SCHED_BATCH: Final = 3
SCHED_DEADLINE: Final = 6
SCHED_FLAG_RESET_ON_FORK: Final = 0x01
SCHED_FLAG_RECLAIM: Final = 0x02
SCHED_FLAG_DL_OVERRUN: Final = 0x04
_KEPT_FLAGS = SCHED_FLAG_RESET_ON_FORK | SCHED_FLAG_RECLAIM | SCHED_FLAG_DL_OVERRUN


class SchedRecord(Record, frozen=True, tag="sched"):
    """How all of `tids` are scheduled."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    tids: list[int]
    scheduling: Scheduling
    cpus: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,2048}$")]
    """Affinity mask in hexadecimal (a mask may have more than 64 bits)."""
    timer_slack_ns: U64 | None
    """None: not seen."""


RECORDS = (SchedRecord,)


def capture(process: Process) -> dict[int, RawScheduling]:
    """Ask the kernel about every thread; three calls each."""
    return read_raw(process.tids)


def finish(raw: dict[int, RawScheduling], process: Process) -> Iterable[SchedRecord]:
    """Make one record for each set of threads that are alike."""
    groups: dict[tuple[RawScheduling, int | None], list[int]] = {}
    for tid, scheduling in raw.items():
        view = process.thread_views.get(tid)
        slack = view.timer_slack_ns if view else _read_slack(process, tid)
        groups.setdefault((scheduling, slack), []).append(tid)
    for (scheduling, slack), tids in groups.items():
        yield _record(process.tgid, tids, decode_scheduling(scheduling), slack)


def _record(tgid: int, tids: list[int], found: Scheduling, slack: int | None) -> SchedRecord:
    flags = found.flags & _KEPT_FLAGS
    return SchedRecord(
        tgid=tgid,
        tids=tids,
        # A mask may be wider than an integer of msgpack: it goes as text beside it.
        scheduling=replace_cpus(found, 0, flags),
        cpus=f"{found.cpus:x}",
        timer_slack_ns=slack,
    )


def replace_cpus(found: Scheduling, cpus: int, flags: int) -> Scheduling:
    """Return `found` with other CPUs and flags."""
    return Scheduling(
        found.policy,
        flags,
        found.nice,
        found.priority,
        found.runtime_ns,
        found.deadline_ns,
        found.period_ns,
        cpus,
        found.ioprio,
    )


def _read_slack(process: Process, tid: int) -> int | None:
    """Return the timer slack from /proc, where a numeric folder of its own shows every thread."""
    try:
        with open(f"/proc/{tid}/timerslack_ns", "rb") as slack:
            return int(slack.read())
    except (PermissionError, FileNotFoundError):
        process.warn(f"tid {tid}", "timer slack not seen: taken as the default")
        return None


def plan(records: Records, build: Builder) -> None:
    """Give threads their scheduling where it is not what they inherit from the restorer."""
    for record in records.of(SchedRecord):
        calls = tuple(build_calls(record, build))
        if not calls:
            continue
        for tid in record.tids:
            build.tape(
                tid,
                calls,
                "scheduling policy, priority and CPUs",
                needs=(born(tid),),
                after=(threads_exist(record.tgid),),
                provides=(Token("sched", tid),),
            )


def build_calls(record: SchedRecord, build: Builder) -> Iterator[Call]:
    """Yield the calls for one thread of `record`; none when it inherits all of it."""
    own, want = build.host.inherited, record.scheduling
    yield from _affinity_calls(record, build)
    attr, inherited = _attributes(want), _attributes(own.scheduling)
    if attr != inherited:
        yield Call(SYS_SCHED_SETATTR, (0, Blob(_encode(want, own.scheduling)), 0))
    if want.ioprio != own.scheduling.ioprio:
        yield Call(SYS_IOPRIO_SET, (IOPRIO_WHO_PROCESS, 0, want.ioprio))
    slack = record.timer_slack_ns
    # 0 is what a thread with a real-time policy shows; the policy brings it back.
    if slack and slack != own.timer_slack_ns:
        yield Call(SYS_PRCTL, (PR_SET_TIMERSLACK, slack))


def _affinity_calls(record: SchedRecord, build: Builder) -> Iterator[Call]:
    cpus, online = int(record.cpus, 16), build.host.online_cpus
    where = f"tid {record.tids[0]}"
    if not cpus or cpus == build.host.inherited.scheduling.cpus:
        return
    if online and not cpus & online:
        build.warn(where, f"may run on CPUs {record.cpus} (mask) only, and none of them is here")
        return
    if online and cpus & ~online:
        build.warn(where, f"some CPUs of its mask {record.cpus} are not here")
        cpus &= online
    size = (cpus.bit_length() + 63) // 64 * 8
    yield Call(SYS_SCHED_SETAFFINITY, (0, size, Blob(cpus.to_bytes(size, "little"))))


def _attributes(of: Scheduling) -> tuple[int, ...]:
    return (
        of.policy,
        of.flags & _KEPT_FLAGS,
        of.nice,
        of.priority,
        of.runtime_ns,
        of.deadline_ns,
        of.period_ns,
    )


def _encode(want: Scheduling, own: Scheduling) -> bytes:
    """Return struct sched_attr. A time slice that is simply the system's is left to the system."""
    fair = want.policy in (SCHED_NORMAL, SCHED_BATCH)
    runtime = 0 if fair and want.runtime_ns == own.runtime_ns else want.runtime_ns
    return SCHED_ATTR.pack(
        SCHED_ATTR.size,
        want.policy,
        want.flags,
        want.nice,
        want.priority,
        runtime,
        want.deadline_ns,
        want.period_ns,
    )

"""Resource limits: the sixteen soft and hard values of setrlimit(2).

They come late: a low RLIMIT_NOFILE, RLIMIT_AS or RLIMIT_MEMLOCK would hinder the restore itself.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from ckpt.host.facts import RLIM_INFINITY, RLIM_NLIMITS, U64
from ckpt.objects.base import Record
from ckpt.objects.steps import (
    Blob,
    Call,
    born,
    fds_placed,
    limits_set,
    memory_filled,
    memory_mapped,
    mm_fields_set,
    threads_exist,
    timers_armed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Builder, Process, Records

SYS_PRLIMIT64: Final = 302
CAP_SYS_RESOURCE: Final = 24
RLIMIT_CPU: Final = 0

NAMES: Final = (
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
)
"""By number, `include/uapi/asm-generic/resource.h`, 6.18."""

PROC_NAMES: Final = {
    b"Max cpu time": 0,
    b"Max file size": 1,
    b"Max data size": 2,
    b"Max stack size": 3,
    b"Max core file size": 4,
    b"Max resident set": 5,
    b"Max processes": 6,
    b"Max open files": 7,
    b"Max locked memory": 8,
    b"Max address space": 9,
    b"Max file locks": 10,
    b"Max pending signals": 11,
    b"Max msgqueue size": 12,
    b"Max nice priority": 13,
    b"Max realtime priority": 14,
    b"Max realtime timeout": 15,
}
"""The first 26 columns of /proc/PID/limits, `fs/proc/base.c`, 6.18."""


class LimitsRecord(Record, frozen=True, tag="limits"):
    """The limits of one process: (soft, hard) by RLIMIT_* number, RLIM_INFINITY is 2**64 - 1."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    limits: Annotated[
        list[tuple[U64, U64]], msgspec.Meta(min_length=RLIM_NLIMITS, max_length=RLIM_NLIMITS)
    ]


RECORDS = (LimitsRecord,)


def capture(process: Process) -> bytes | None:
    """Read /proc/PID/limits unless a view has them."""
    return None if process.process_view else process.read("limits")


def finish(raw: bytes | None, process: Process) -> Iterable[LimitsRecord]:
    """Make the record from the view or from what /proc said."""
    view = process.process_view
    if view is not None and len(view.rlimits) == RLIM_NLIMITS:
        limits = [(limit.soft, limit.hard) for limit in view.rlimits]
    else:
        limits = parse_limits(raw if raw is not None else process.read("limits"))
    return (LimitsRecord(tgid=process.tgid, limits=limits),)


def parse_limits(raw: bytes) -> list[tuple[int, int]]:
    """Turn /proc/PID/limits into (soft, hard) by number.

    Raises:
        KeyError: a limit is missing.
    """
    found: dict[int, tuple[int, int]] = {}
    for line in raw.splitlines()[1:]:
        number = PROC_NAMES.get(line[:26].rstrip())
        if number is not None:
            soft, hard = line[26:].split()[:2]
            found[number] = (_value(soft), _value(hard))
    return [found[number] for number in range(RLIM_NLIMITS)]


def _value(text: bytes) -> int:
    return RLIM_INFINITY if text == b"unlimited" else int(text)


def plan(records: Records, build: Builder) -> None:
    """Set all limits on a thread's own tape: the restorer may have raised its own meanwhile."""
    processes = {process.tgid: process for process in records.processes}
    for record in records.of(LimitsRecord):
        process, tgid = processes[record.tgid], record.tgid
        calls = tuple(_calls(record, build))
        build.tape(
            process.tids[0],
            calls,
            "resource limits",
            needs=(born(process.tids[0]),),
            after=(
                threads_exist(tgid),
                memory_mapped(tgid),
                memory_filled(tgid),
                mm_fields_set(tgid),
                fds_placed(process.files),
                timers_armed(tgid),
            ),
            provides=(limits_set(tgid),),
        )


def _calls(record: LimitsRecord, build: Builder) -> Iterator[Call]:
    own = build.host.inherited.limits
    may_raise = build.host.has_capability(CAP_SYS_RESOURCE)
    if record.limits[RLIMIT_CPU][0] != RLIM_INFINITY:
        what = "RLIMIT_CPU counts CPU time from zero again: what was used before is forgotten"
        build.warn(f"process {record.tgid}", what)
    for number, (soft, hard) in enumerate(record.limits):
        here = own[number] if number < len(own) else None
        if here is not None and hard > here[1] and not may_raise:
            _warn_of_lower(record, number, here[1], build)
            soft, hard = min(soft, here[1]), here[1]
        yield Call(SYS_PRLIMIT64, (0, number, Blob(struct.pack("<QQ", soft, hard)), 0))


def _warn_of_lower(record: LimitsRecord, number: int, hard: int, build: Builder) -> None:
    wanted_soft, wanted_hard = record.limits[number]
    what = f"RLIMIT_{NAMES[number]}: hard limit {wanted_hard} cannot be had, {hard} instead"
    if wanted_soft > hard:
        what += f" (soft limit {wanted_soft} as well)"
    hint = "restore with CAP_SYS_RESOURCE, or raise the limit before"
    build.warn(f"process {record.tgid}", what, hint)

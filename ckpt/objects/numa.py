"""NUMA policies of threads; those of areas are set by `areas.py`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ckpt.objects.base import Record
from ckpt.objects.mempolicy_text import DEFAULT, build_policy, parse_policy
from ckpt.objects.steps import Call, born, threads_exist

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.objects.base import Builder, Process, Records

SYS_SET_MEMPOLICY: Final = 238
_FIRST_LINE_BYTES: Final = 64
"""Asked for more, the kernel would walk the page tables of further areas."""


class MemPolicyRecord(Record, tag="mempolicy", frozen=True):
    """The memory policy of one thread that has one of its own."""

    tid: int
    policy: str


RECORDS = (MemPolicyRecord,)


def capture(process: Process) -> dict[int, str]:
    """Read each thread's policy: that of its first area, which is the program's own text."""
    policies = {}
    for tid in process.stops:
        try:
            fd = os.open(process.path("numa_maps", tid), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        try:
            line = os.read(fd, _FIRST_LINE_BYTES).partition(b"\n")[0]
        finally:
            os.close(fd)
        policy = parse_policy(line.partition(b" ")[2])
        if policy != DEFAULT:
            policies[tid] = policy
    return policies


def finish(policies: dict[int, str], _process: Process) -> Iterator[Record]:
    """Make a record for each thread with a policy."""
    for tid, policy in policies.items():
        yield MemPolicyRecord(tid=tid, policy=policy)


def plan(records: Records, build: Builder) -> None:
    """Let each thread set its policy, after its process's memory stands and threads exist."""
    process_of = {tid: process.tgid for process in records.processes for tid in process.tids}
    for record in records.of(MemPolicyRecord):
        mode, mask, bits = build_policy(record.policy)
        build.tape(
            record.tid,
            [Call(SYS_SET_MEMPOLICY, (mode, mask, bits))],
            "set memory policy",
            needs=(born(record.tid), threads_exist(process_of[record.tid])),
        )

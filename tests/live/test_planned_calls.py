"""Planned calls do what the records say: made in a child of ours, and read back from /proc."""

from __future__ import annotations

import ctypes
import os
import resource
import struct
from typing import Any

import msgspec
import pytest

from ckpt.host.facts import Credentials, HostFacts, Scheduling
from ckpt.host.probe import probe_host
from ckpt.host.scheduling import read_scheduling
from ckpt.host.status import parse_credentials, parse_fields, read_small
from ckpt.objects import creds, limits, prctl, sched, seccomp, thread_attributes
from ckpt.objects.base import Builder, Options, Record, Records
from ckpt.objects.steps import Call, Executor
from tests.live.calls import in_child, make_calls
from tests.unit.planning import process_record

KEEP_CAPS, NO_SETUID_FIXUP, NOROOT = 1 << 4, 1 << 2, 1 << 0
NET_RAW, CHOWN = 1 << 13, 1 << 0


def own_facts() -> HostFacts:
    """Return the facts, with the credentials that we have ourselves: nothing is executed here."""
    facts = probe_host()
    own = parse_credentials(parse_fields(read_small("/proc/self/status")))
    return msgspec.structs.replace(
        facts, inherited=msgspec.structs.replace(facts.inherited, credentials=own)
    )


def calls_of(module: Any, *records: Record) -> list[Call]:
    build = Builder(own_facts(), Options(), 3)
    module.plan(Records((process_record(100), *records)), build)
    assert not [finding for finding in build.findings if finding.blocker]
    return [c for step in build.steps if step.executor is Executor.TAPE for c in step.calls]


def prctl_get(option: int) -> int:
    return int(ctypes.CDLL(None).prctl(option, 0, 0, 0, 0))


def own_credentials() -> dict[str, Any]:
    found = parse_credentials(parse_fields(read_small("/proc/self/status")))
    return {"credentials": msgspec.to_builtins(found), "securebits": prctl_get(27)}


ALL = own_facts().inherited.credentials.permitted
CASES = {
    "user": (Credentials((1000,) * 4, (1001,) * 4, (4, 27), bounding=ALL), 0),
    "user with capabilities": (
        Credentials((1000,) * 4, (1000,) * 4, (), NET_RAW, NET_RAW | CHOWN, CHOWN, ALL, NET_RAW),
        0,
    ),
    "root with less": (Credentials(permitted=NET_RAW, effective=NET_RAW, bounding=NET_RAW), 0),
    "inheritable beyond the bounding set": (
        Credentials(inheritable=CHOWN, permitted=ALL, effective=ALL, bounding=ALL & ~CHOWN),
        0,
    ),
    "securebits": (
        Credentials((1, 2, 3, 4), (5, 6, 7, 8), (), 0, ALL, 0, ALL),
        NOROOT | NOROOT << 1 | KEEP_CAPS | NO_SETUID_FIXUP,
    ),
    "no_new_privs": (
        Credentials((7,) * 4, (7,) * 4, bounding=ALL, no_new_privs=True),
        KEEP_CAPS,
    ),
    "ids of set-id programs": (
        Credentials((1000, 0, 0, 0), (1000, 0, 0, 0), (27,), 0, ALL, ALL, ALL),
        0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_credentials(name: str) -> None:
    wanted, securebits = CASES[name]
    record = creds.CredsRecord(
        tgid=100, tids=[100], credentials=wanted, securebits=securebits, label=""
    )
    calls = calls_of(creds, record)

    def work() -> dict[str, Any]:
        make_calls(calls)
        return own_credentials()

    found = in_child(work)
    assert msgspec.convert(found["credentials"], Credentials) == wanted
    assert found["securebits"] == securebits


@pytest.mark.parametrize(
    "wanted",
    [
        Scheduling(nice=7),
        Scheduling(nice=-3, ioprio=(2 << 13) | 5),
        Scheduling(policy=3, nice=1),
        Scheduling(policy=5),
        Scheduling(policy=1, priority=17, flags=1),
        Scheduling(policy=2, priority=99, ioprio=(1 << 13) | 0),
        Scheduling(6, 0, 0, 0, 1_000_000, 10_000_000, 20_000_000),
    ],
)
def test_scheduling(wanted: Scheduling) -> None:
    deadline = wanted.policy == 6
    cpus = own_facts().inherited.scheduling.cpus
    cpus = cpus if deadline else cpus & -cpus
    record = sched.SchedRecord(
        tgid=100, tids=[100], scheduling=wanted, cpus=f"{cpus:x}", timer_slack_ns=None
    )
    calls = calls_of(sched, record)

    def work() -> Any:
        make_calls(calls)
        return msgspec.to_builtins(read_scheduling(0))

    found = msgspec.convert(in_child(work), Scheduling)
    assert found.cpus == cpus
    keep = wanted.runtime_ns if deadline else found.runtime_ns
    ours = sched.replace_cpus(found, 0, found.flags)
    assert ours == msgspec.structs.replace(wanted, runtime_ns=keep)


def test_limits() -> None:
    wanted = [resource.getrlimit(number) for number in range(16)]
    wanted[7], wanted[4], wanted[10] = (50, 60), (0, 0), (7, 8)
    record = limits.LimitsRecord(
        tgid=100, limits=[(soft & (1 << 64) - 1, hard & (1 << 64) - 1) for soft, hard in wanted]
    )
    calls = calls_of(limits, record)

    def work() -> Any:
        make_calls(calls)
        return [resource.getrlimit(number) for number in range(16)]

    assert [tuple(pair) for pair in in_child(work)] == wanted


def test_attributes() -> None:
    process = prctl.AttributesRecord(
        tgid=100,
        dumpable=0,
        is_subreaper=True,
        thp_disabled=True,
        thp_except_advised=False,
        mdwe=1,
        merges_memory=True,
        coredump_filter=0x33,
        oom_score_adj=0,
    )
    threads = thread_attributes.ThreadAttributesRecord(
        tgid=100,
        tids=[100],
        personality=0x0004_0000,
        pdeath_signal=10,
        tsc_faults=False,
        cpuid_faults=False,
        is_io_flusher=own_facts().has_capability(24),
        mce_policy=1,
    )
    calls = [*calls_of(prctl, process), *calls_of(thread_attributes, threads)]

    def work() -> Any:
        make_calls(calls)
        values = [ctypes.c_int(), ctypes.c_int()]
        libc = ctypes.CDLL(None)
        libc.prctl(2, ctypes.byref(values[0]), 0, 0, 0)
        libc.prctl(37, ctypes.byref(values[1]), 0, 0, 0)
        pdeath, subreaper = (value.value for value in values)
        got = [prctl_get(option) for option in (3, 42, 66, 68, 34)]
        return [pdeath, subreaper, *got, libc.personality(0xFFFF_FFFF)]

    assert in_child(work) == [10, 1, 0, 1, 1, 1, 1, 0x0004_0000]


def _deny(number: int, error: int) -> bytes:
    """Return a filter that answers `error` to system call `number`."""
    code = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x5_0000 | error))
    return b"".join(struct.pack("<HBBI", *line) for line in (*code, (0x06, 0, 0, 0x7FFF_0000)))


def test_seccomp_chain() -> None:
    getppid, getpgrp = 110, 111
    records = [
        seccomp.SeccompFilterRecord(ref=1, program=_deny(getppid, 71), logs=True),
        seccomp.SeccompFilterRecord(ref=2, program=_deny(getpgrp, 72), logs=False),
        seccomp.SeccompRecord(tgid=100, tids=[100], mode=2, filters=[1, 2]),
    ]
    calls = calls_of(seccomp, *records)

    def work() -> Any:
        make_calls(calls)
        libc = ctypes.CDLL(None, use_errno=True)
        errors = []
        for number in (getppid, getpgrp):
            libc.syscall(number)
            errors.append(ctypes.get_errno())
        fields = parse_fields(read_small("/proc/self/status"))
        return [*errors, int(fields[b"Seccomp_filters"]), os.getpid() > 0]

    assert in_child(work) == [71, 72, 2, True]

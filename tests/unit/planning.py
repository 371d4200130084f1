"""What unit tests of plans share: a process, a builder, and a look at calls."""

from __future__ import annotations

from typing import Any

from ckpt.host.facts import Credentials, HostFacts, Inherited
from ckpt.objects.base import Builder, Options, ProcessRecord, Record, Records
from ckpt.objects.steps import Call, Executor, Step

ALL_CAPS = (1 << 41) - 1
ROOT = Credentials(permitted=ALL_CAPS, effective=ALL_CAPS, bounding=ALL_CAPS)
SOCKET_FD = 3


def process_record(*tids: int) -> ProcessRecord:
    """Return a process of these threads, the leader first."""
    return ProcessRecord(
        tgid=tids[0],
        tids=list(tids),
        leader_alive=True,
        stopped_by=0,
        mm=1,
        files=2,
        fs=3,
        sighand=4,
    )


def host_facts(**inherited: Any) -> HostFacts:
    """Return facts of a root with every capability; `inherited` replaces what tasks inherit."""
    return HostFacts(inherited=Inherited(**{"credentials": ROOT, **inherited}))


def plan_of(
    module: Any,
    process: ProcessRecord,
    *records: Record,
    host: HostFacts | None = None,
    options: Options | None = None,
) -> Builder:
    """Return the builder after `module` has planned."""
    build = Builder(host or host_facts(), options or Options(), SOCKET_FD)
    module.plan(Records((process, *records)), build)
    return build


def calls_of(build: Builder, tid: int) -> list[Call]:
    """Return all calls on the tape of `tid`, in the order of their steps."""
    tapes = [step for step in build.steps if step.executor is Executor.TAPE and step.tid == tid]
    return [call for step in tapes for call in step.calls]


def only(steps: list[Step], why: str) -> Step:
    """Return the one step whose reason contains `why`."""
    found = [step for step in steps if why in step.why]
    assert len(found) == 1, [step.why for step in steps]
    return found[0]


def blockers(build: Builder) -> list[str]:
    """Return the refusals as text."""
    return [str(finding) for finding in build.findings if finding.blocker]


def warnings(build: Builder) -> list[str]:
    """Return the warnings as text."""
    return [str(finding) for finding in build.findings if not finding.blocker]

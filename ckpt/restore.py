"""The order of a restore's steps. What each step does is the business of the modules it calls."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckpt.errors import Finding, HostError, RefusedError, RestoreError
from ckpt.host.probe import probe_host
from ckpt.host.watch import Watch, released
from ckpt.image.reader import open_image_file
from ckpt.image.source import invoking_uid
from ckpt.objects import modules, record_types
from ckpt.objects.base import Options, Records, raise_blockers
from ckpt.objects.consistency import check_records
from ckpt.plan import Plan, build_plan
from ckpt.restorer import Restorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckpt.host.facts import HostFacts
    from ckpt.host.watch import Report
    from ckpt.image.reader import ImageFile
    from ckpt.objects.steps import Step


class RestoreResult(NamedTuple):
    """What a restore did; the process runs, as our child."""

    pid: int
    threads: int
    warnings: list[Finding]


def restore(
    path: str,
    options: Options | None = None,
    before_commit: Callable[[int], object] | None = None,
    report: Report | None = None,
) -> RestoreResult:
    """Restore the process of the image at `path`; it runs, as our child, when this returns.

    `before_commit` is called with its pid while it is complete and has not run yet. `report` is
    told what is being done.

    Raises:
        CkptError: nothing of the process exists.
    """
    options = options or Options()
    if os.geteuid() != 0:
        raise HostError("only root can restore", hint="sudo ckpt-bpf restore")
    with Watch(report=report) as watch, open_image(path, options) as image:
        watch.step(f"plan from {len(image.records)} records")
        records = Records(image.records)
        plan = make_plan(image, records, options)
        with Restorer(image, records, plan) as restorer:
            watch.step(f"create process {restorer.root_tid}")
            restorer.start(detach=options.detach)
            # Only now may there be a second thread of ours: `start` forks without libc's help.
            with image.checking_pages() as pages:
                for run in plan.runs():
                    watch.step(describe_run(run))
                    restorer.carry_out(run)
                watch.step("wait for the check of all pages")
                with released():
                    pages.wait()
            if options.verify:
                watch.step("capture again and compare")
                _verify(image, restorer, options)
            if before_commit is not None:
                before_commit(restorer.root_tid)
            watch.step("commit")
            restorer.commit(options)
            watch.done()
    root = records.processes[0]
    return RestoreResult(root.tgid, len(root.tids), list(plan.warnings))


def describe_run(run: Sequence[Step]) -> str:
    """Return one line about steps that are carried out together."""
    first = run[0]
    where = f"{first.executor.value} {first.tid}" if first.tid else first.executor.value
    if first.action is not None:
        return f"{where}: {first.why}: {first.action.describe()}"
    calls = sum(len(step.calls) for step in run)
    return f"{where}: {', '.join(step.why for step in run)} ({calls} calls)"


def open_image(path: str, options: Options | None = None) -> ImageFile:
    """Open the image at `path` (`-`: standard input), checked but for the contents of its pages.

    Raises:
        ImageError: it is not a whole image, or its owner is not trusted.
    """
    trusted = None if options is None or options.trust_image else invoking_uid()
    return open_image_file(path, record_types(), trusted_uid=trusted)


def make_plan(image: ImageFile, records: Records, options: Options) -> Plan:
    """Look at what the records need of this host, then build the plan.

    Raises:
        RefusedError: with everything that stands in the way.
        PlanError: the records do not make a process.
    """
    found = find_obstacles(records, options)
    try:
        plan = plan_here(image, records, options)
    except RefusedError as error:
        raise RefusedError(error.what, [*error.findings, *found]) from error
    raise_blockers(found, "cannot be restored here")
    return plan


def plan_here(image: ImageFile, records: Records, options: Options) -> Plan:
    """Build the plan for this machine, whatever stands in its way at the moment.

    Raises:
        RefusedError: this machine, or this version, cannot hold what the image has.
        PlanError: the records do not make a process.
    """
    raise_blockers(check_records(records, image.pages), "the image contradicts itself")
    return build_plan(records, read_facts(image), options)


def read_facts(image: ImageFile) -> HostFacts:
    """Return what planning has to know of this machine, and of the moment of the snapshot."""
    clocks = image.header.clocks
    return msgspec.structs.replace(
        probe_host(),
        snapshot_monotonic_ns=clocks.monotonic_ns,
        snapshot_boottime_ns=clocks.boottime_ns,
        snapshot_realtime_ns=clocks.realtime_ns,
    )


def find_obstacles(records: Records, options: Options) -> list[Finding]:
    """Return what on this machine stands in the way: pids in use, files that have changed."""
    found = list(_check_pids(records))
    for module in modules():
        if hasattr(module, "preflight"):
            found += module.preflight(records, options)
    return found


def _check_pids(records: Records) -> Iterator[Finding]:
    """Find pids and tids that somebody else has."""
    for process in records.processes:
        for tid in {process.tgid, *process.tids}:
            holder = _describe_holder(tid)
            if holder:
                yield Finding(f"pid {tid}", f"is taken by {holder}", _PID_HINT)


_PID_HINT = "end that process, or have its parent reap it, and restore again"


def _describe_holder(tid: int) -> str:
    from ckpt.host.status import parse_fields

    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            fields = parse_fields(file.read())
    except (FileNotFoundError, ProcessLookupError):
        return ""
    name = fields[b"Name"].decode("utf-8", "replace")
    if fields[b"State"].startswith(b"Z"):
        return f"a zombie ({name}) of parent {int(fields[b'PPid'])}"
    tgid = int(fields[b"Tgid"])
    return f"process {tgid} ({name})" if tgid == tid else f"a thread of process {tgid} ({name})"


def _verify(image: ImageFile, restorer: Restorer, options: Options) -> None:
    from ckpt.verify import find_differences

    differences = find_differences(image, restorer.expected_records(), restorer.tids, options)
    if differences:
        raise RestoreError(
            f"{len(differences)} differences from the image: " + "; ".join(differences),
            hint="nothing was left running; without --verify it would be",
        )

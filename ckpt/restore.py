"""The order of a restore's steps. What each step does is the business of the modules it calls."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from ckpt.errors import Finding, HostError, PlanError, RefusedError, RestoreError
from ckpt.host.probe import probe_host
from ckpt.host.watch import Watch, released
from ckpt.image.reader import open_image_file
from ckpt.image.source import invoking_uid
from ckpt.objects import modules, record_types
from ckpt.objects.base import Options, Records, raise_blockers
from ckpt.objects.consistency import check_records
from ckpt.plan import COMMIT, Plan, build_plan, find_step, name_steps
from ckpt.restorer import Restorer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ckpt.host.facts import HostFacts
    from ckpt.host.watch import Report
    from ckpt.image.reader import ImageFile
    from ckpt.objects.steps import Call, Step


class RestoreResult(NamedTuple):
    """What a restore did; the process runs, as our child."""

    pid: int
    threads: int
    warnings: list[Finding]


class HalfBuilt(NamedTuple):
    """What `restore_until` left: a process that nobody traces, every thread of it stopped."""

    pid: int
    tids: list[int]
    """The threads that exist already."""
    number: int
    """Of the first step that was not carried out, from 1."""
    name: str
    step: Step | None
    """That step; None: only the commit was left."""
    steps: int
    """All of the plan."""
    warnings: list[Finding]


class CallLog(Protocol):
    """Who wants to see every system call that a process is made to make while it is built."""

    def begin(self, number: int, run: Sequence[Step]) -> None:
        """Steps that are carried out together begin; the first of them has this number."""

    def made(self, tid: int, call: Call, result: int | None) -> None:
        """Thread `tid` made a call; `result` is raw rax, None where it does not come back."""

    def built(self) -> None:
        """All steps are carried out, and nothing runs yet."""


def restore(
    path: str,
    options: Options | None = None,
    before_commit: Callable[[int], object] | None = None,
    report: Report | None = None,
    call_log: CallLog | None = None,
) -> RestoreResult:
    """Restore the process of the image at `path`; it runs, as our child, when this returns.

    `before_commit` is called with its pid while it is complete and has not run yet. `report` is
    told what is being done.

    Raises:
        CkptError: nothing of the process exists.
    """
    options = options or Options()
    _check_root()
    with Watch(report=report) as watch, open_image(path, options) as image:
        plan, restorer = _prepare(watch, image, options, call_log)
        with restorer:
            _build(watch, restorer, plan, options, call_log)
            if options.verify:
                watch.step("capture again and compare")
                _verify(image, restorer, options)
            if before_commit is not None:
                before_commit(restorer.root_tid)
            watch.step("commit")
            restorer.commit(options)
            watch.done()
    root = restorer.records.processes[0]
    return RestoreResult(root.tgid, len(root.tids), list(plan.warnings))


def restore_until(
    path: str,
    step: str,
    options: Options | None = None,
    report: Report | None = None,
    call_log: CallLog | None = None,
) -> HalfBuilt:
    """Build the process of the image at `path` up to before `step`, and leave it stopped.

    `step` is a number or name as `restore --dry-run` prints it, or `commit`. The process is
    nobody's tracee, a child of init, in a process group other than ours, and has run no instruction
    of its own; whoever lets it run (SIGCONT) gets what half a process does.

    Raises:
        PlanError: there is no such step.
        CkptError: nothing of the process exists.
    """
    options = options or Options()
    _check_root()
    with Watch(report=report) as watch, open_image(path, options) as image:
        plan, restorer = _prepare(watch, image, options, call_log)
        end = find_step(plan, step)
        if options.verify and end < len(plan.steps):
            raise PlanError("only a whole process can be compared", hint="--stop-at commit")
        with restorer:
            _build(watch, restorer, plan, options, call_log, end)
            if options.verify:
                watch.step("capture again and compare")
                _verify(image, restorer, options)
            watch.step("leave it stopped")
            tids = restorer.leave_stopped()
            watch.done()
    names = [*name_steps(plan.steps), COMMIT]
    following = plan.steps[end] if end < len(plan.steps) else None
    pid, warnings = restorer.root_tid, list(plan.warnings)
    return HalfBuilt(pid, tids, end + 1, names[end], following, len(plan.steps), warnings)


def _check_root() -> None:
    if os.geteuid() != 0:
        raise HostError("only root can restore", hint="sudo ckpt-bpf restore")


def _prepare(
    watch: Watch, image: ImageFile, options: Options, call_log: CallLog | None
) -> tuple[Plan, Restorer]:
    watch.step(f"plan from {len(image.records)} records")
    records = Records(image.records)
    plan = make_plan(image, records, options)
    return plan, Restorer(image, records, plan, call_log.made if call_log else None)


def _build(
    watch: Watch,
    restorer: Restorer,
    plan: Plan,
    options: Options,
    call_log: CallLog | None,
    end: int | None = None,
) -> None:
    """Create the process and carry out its steps, all or the first `end`; pages are good then."""
    watch.step(f"create process {restorer.root_tid}")
    if call_log is not None:
        call_log.begin(0, ())
    root = restorer.records.processes[0]
    stays_stopped = options.detach and bool(options.stopped or root.stopped_by)
    restorer.start(detach=options.detach, apart=stays_stopped or end is not None)
    # Only now may there be a second thread of ours: `start` forks without libc's help.
    with restorer.image.checking_pages() as pages:
        number = 1
        for run in plan.runs(end):
            watch.step(describe_run(run))
            if call_log is not None:
                call_log.begin(number, run)
            restorer.carry_out(run)
            number += len(run)
        watch.step("wait for the check of all pages")
        with released():
            pages.wait()
    if call_log is not None:
        call_log.built()


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

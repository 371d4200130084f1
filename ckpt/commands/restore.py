"""`ckpt-bpf restore`: put a process back from its image."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Final

from ckpt.commands.common import plain_result, print_warnings, to_json
from ckpt.debug.text import escape
from ckpt.errors import CkptError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from ckpt.debug.call_log import CallWriter
    from ckpt.debug.report import Reporter
    from ckpt.debug.tape_actions import Facts
    from ckpt.errors import Finding
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import Options, Records
    from ckpt.plan import Plan
    from ckpt.restore import HalfBuilt, RestoreResult


DESCRIPTION: Final = (
    "Put a process back from its image, under its pid: without FILE, from the newest *.ckpt of "
    "this folder. The command stays as its parent, passes signals of the terminal on, and ends "
    "as the process does. A restore that fails leaves nothing behind. To see what one does: "
    "--dry-run prints every step with a number and a name, what it waits for, and its system "
    "calls as strace would, with what they must return; --stop-at STEP carries out all that comes "
    "before a step, then leaves the half-built process stopped, with nobody tracing it, for a "
    "debugger to attach to (gdb -p PID) and for kill -9 to end."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("image", nargs="?", metavar="FILE", help="image, - for stdin")
    parser.add_argument("--detach", action="store_true", help="leave the process to init")
    parser.add_argument("--pidfile", metavar="FILE", help="write its pid to FILE")
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--dry-run", action="store_true", help="print the steps and their system calls only"
    )
    only.add_argument(
        "--stop-at",
        metavar="STEP",
        help="build it up to before STEP (number or name) and leave it stopped, for a debugger",
    )
    parser.add_argument("--call-log", metavar="FILE", help="write its system calls to FILE")
    parser.add_argument("--verify", action="store_true", help="capture again and compare")
    parser.add_argument("--stopped", action="store_true", help="leave it stopped (SIGSTOP)")
    parser.add_argument("--no-timens", action="store_true", help="let clocks show the pause")
    parser.add_argument("--trust-image", action="store_true", help="whoever owns or can write it")
    parser.add_argument(
        "--allow-changed-files", action="store_true", help="restore on files that changed since"
    )


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code, or end as the restored process did."""
    from ckpt.objects.base import Options
    from ckpt.restore import restore

    options = Options(
        stopped=args.stopped,
        detach=args.detach,
        verify=args.verify,
        timens=not args.no_timens,
        trust_image=args.trust_image,
        allow_changed_files=args.allow_changed_files,
    )
    path = args.image or _newest_image()
    if args.dry_run:
        return _dry_run(args, path, options)
    if args.stop_at is not None:
        return _stop_at(args, path, options, report)
    if args.detach:
        with _open_call_log(args) as log:
            result = restore(path, options, _pidfile_writer(args), report, log)
        _report_restored(args, path, result, report)
        return 0
    return _restore_and_stay(args, path, options, report)


def _open_call_log(args: argparse.Namespace) -> AbstractContextManager[CallWriter | None]:
    if args.call_log is None:
        return nullcontext()
    from ckpt.debug.call_log import CallWriter

    return CallWriter(args.call_log)


def _restore_and_stay(
    args: argparse.Namespace, path: str, options: Options, report: Reporter
) -> int:
    from ckpt.host.terminal import Attendant, end_like
    from ckpt.restore import restore

    with ExitStack() as stack:
        attendants: list[Attendant] = []

        def before_commit(pid: int) -> None:
            _pidfile_writer(args)(pid)
            attendants.append(stack.enter_context(Attendant(pid)))

        with _open_call_log(args) as log:
            result = restore(path, options, before_commit, report, log)
        _report_restored(args, path, result, report)
        status = attendants[0].wait()
    sys.stdout.flush()
    end_like(status)


def _pidfile_writer(args: argparse.Namespace) -> Callable[[int], None]:
    return lambda pid: _write_pidfile(args.pidfile, pid) if args.pidfile else None


def _write_pidfile(path: str, pid: int) -> None:
    try:
        with open(path, "w") as file:
            file.write(f"{pid}\n")
    except OSError as error:
        raise CkptError("pidfile cannot be written", where=path, errno=error.errno) from error


def _report_restored(
    args: argparse.Namespace, path: str, result: RestoreResult, report: Reporter
) -> None:
    print_warnings(result.warnings, report)
    if args.json:
        print(to_json({**plain_result(result), "image": path}), flush=True)
    elif args.detach or args.verbose:
        text = f"process {result.pid}: {result.threads} threads, from {path}"
        print(escape(text), file=sys.stdout if args.detach else sys.stderr, flush=True)


def _newest_image() -> str:
    images = [entry for entry in os.scandir() if entry.name.endswith(".ckpt")]
    if not images:
        raise CkptError("no *.ckpt in this folder", hint="name the image: ckpt-bpf restore FILE")
    newest = max(images, key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns).name
    print(escape(f"restoring {newest}"), file=sys.stderr)
    return newest


def _stop_at(args: argparse.Namespace, path: str, options: Options, report: Reporter) -> int:
    from ckpt.restore import restore_until

    with _open_call_log(args) as log:
        half = restore_until(path, args.stop_at, options, report, log)
    print_warnings(half.warnings, report)
    if args.pidfile:
        _write_pidfile(args.pidfile, half.pid)
    for line in _stopped_json(half, path) if args.json else _stopped_lines(half, path):
        print(line)
    return 0


def _stopped_lines(half: HalfBuilt, path: str) -> Iterator[str]:
    from ckpt.debug.plan_text import describe_executor, describe_step

    number, name, step = half.number, half.name, half.step
    what = "" if step is None else f" ({describe_executor(step)}): {describe_step(step)}"
    yield escape(f"process {half.pid} is half built, from {path}, and stopped")
    yield f"next: step {number} of {half.steps + 1}, {name}{what}"
    yield f"threads: {' '.join(map(str, half.tids))}"
    if half.pid in half.tids:
        yield f"look: gdb -p {half.pid}"
    else:
        each = ", ".join(f"gdb -p {tid}" for tid in half.tids)
        yield f"look: {each} (one thread at a time: the main thread has ended)"
    yield f"end it: kill -9 {half.pid}"
    yield "do not continue it (SIGCONT): what would run is no program yet"


def _stopped_json(half: HalfBuilt, path: str) -> Iterator[str]:
    from ckpt.debug.plan_text import step_json

    following = step_json(half.number, half.name, half.step)
    warnings = [str(finding) for finding in half.warnings]
    plain = {"pid": half.pid, "tids": half.tids, "image": path, "steps": half.steps + 1}
    yield to_json({**plain, "next": following, "warnings": warnings})


def _dry_run(args: argparse.Namespace, path: str, options: Options) -> int:
    from ckpt.objects.base import Records, raise_blockers
    from ckpt.restore import find_obstacles, open_image

    with open_image(path, options) as image:
        records = Records(image.records)
        found = find_obstacles(records, options)
        lines = _plan_json if args.json else _plan_lines
        for line in lines(image, records, options, found):
            print(line)
    raise_blockers(found, "cannot be restored here")
    return 0


def _plan_lines(
    image: ImageFile, records: Records, options: Options, _found: list[Finding]
) -> Iterator[str]:
    from ckpt.debug.calls import describe_calls
    from ckpt.debug.plan_text import plan_lines
    from ckpt.debug.symbols import AddressSpace
    from ckpt.debug.tape_text import TapeText
    from ckpt.restore import plan_here

    plan = plan_here(image, records, options)
    with AddressSpace(image, records) as space:
        for call in describe_calls(records, space):
            yield f"{call.line()}; {call.instruction}"
        yield from plan_lines(plan, TapeText(space.locate), _facts(image, records, plan))


def _plan_json(
    image: ImageFile, records: Records, options: Options, found: list[Finding]
) -> Iterator[str]:
    from ckpt.debug.calls import describe_calls
    from ckpt.debug.plan_text import plan_json
    from ckpt.debug.symbols import AddressSpace
    from ckpt.debug.tape_text import TapeText
    from ckpt.restore import plan_here

    plan = plan_here(image, records, options)
    with AddressSpace(image, records) as space:
        threads = [call.plain() for call in describe_calls(records, space)]
        facts = _facts(image, records, plan)
        steps = list(plan_json(plan, TapeText(space.locate), facts))
    warnings = [str(finding) for finding in (*found, *plan.warnings)]
    plain = {"threads": threads, "steps": steps, "warnings": warnings}
    yield to_json({"pid": records.processes[0].tgid, **plain})


def _facts(image: ImageFile, records: Records, plan: Plan) -> Facts:
    from ckpt.debug.tape_actions import Facts
    from ckpt.restorer import find_region, used_ranges

    tgid = records.processes[0].tgid
    return Facts(image, tgid, plan.socket_fd, find_region(used_ranges(records)))

"""`ckpt-bpf restore`: put a process back from its image."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ckpt.commands.common import plain_result, print_warnings, to_json
from ckpt.debug.text import escape
from ckpt.errors import CkptError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from ckpt.debug.report import Reporter
    from ckpt.objects.base import Options
    from ckpt.restore import RestoreResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("image", nargs="?", metavar="FILE", help="image, - for stdin")
    parser.add_argument("--detach", action="store_true", help="leave the process to init")
    parser.add_argument("--pidfile", metavar="FILE", help="write its pid to FILE")
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    parser.add_argument("--verify", action="store_true", help="capture again and compare")
    parser.add_argument("--stopped", action="store_true", help="leave it stopped (SIGSTOP)")
    parser.add_argument("--no-timens", action="store_true", help="let clocks show the pause")
    parser.add_argument("--trust-image", action="store_true", help="whoever owns the image")
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
    if args.detach:
        _report_restored(args, path, restore(path, options, _pidfile_writer(args), report), report)
        return 0
    return _restore_and_stay(args, path, options, report)


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

        _report_restored(args, path, restore(path, options, before_commit, report), report)
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


def _dry_run(args: argparse.Namespace, path: str, options: Options) -> int:
    from ckpt.debug.calls import describe_calls
    from ckpt.debug.plan_text import plan_json, plan_lines
    from ckpt.debug.symbols import AddressSpace
    from ckpt.objects.base import Records, raise_blockers
    from ckpt.restore import find_obstacles, open_image, plan_here

    with open_image(path, options) as image:
        records = Records(image.records)
        plan = plan_here(image, records, options)
        with AddressSpace(image, records) as space:
            calls = list(describe_calls(records, space))
        found = find_obstacles(records, options)
    if args.json:
        threads = [call.plain() for call in calls]
        warnings = [str(finding) for finding in (*found, *plan.warnings)]
        plain = {"threads": threads, "steps": list(plan_json(plan)), "warnings": warnings}
        print(to_json({"pid": records.processes[0].tgid, **plain}))
    else:
        for call in calls:
            print(f"{call.line()}; {call.instruction}")
        for line in plan_lines(plan):
            print(line)
    raise_blockers(found, "cannot be restored here")
    return 0

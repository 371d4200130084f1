"""The command line: arguments, printing, exit codes. Nothing else in the package prints.

Exit codes: 0 done, 1 refused or failed (the reason is on stderr), 2 wrong usage. `restore` without
`--detach` exits as the restored process did.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ckpt.debug.report import Reporter
from ckpt.debug.text import escape
from ckpt.errors import CkptError, InterruptError, RefusedError
from ckpt.host.watch import end_on_signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ckpt.errors import Finding
    from ckpt.objects.base import Options
    from ckpt.restore import RestoreResult

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Formatter(argparse.HelpFormatter):
    """The usual one, but that it finds the width without importing three modules at each start."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=(int(columns) if columns.isdecimal() else 80) - 2)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="ckpt-bpf",
        description="Checkpoint and restore running processes.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action="version", version="ckpt-bpf 0.1.0")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_snapshot(commands)
    _add_restore(commands)
    show = _add(commands, "show", "print every record of an image", _run_show)
    show.add_argument("image", metavar="FILE", help="image, - for stdin")
    verify = _add(commands, "verify", "is an image whole, and restorable here?", _run_verify)
    verify.add_argument("image", metavar="FILE", help="image, - for stdin")
    _add(commands, "check", "what this kernel and this user can do", _run_check)
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text}: not a positive number of seconds")
    return value


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 31):
        raise argparse.ArgumentTypeError(f"{text}: not a pid")
    return int(text)


def _add(commands: Any, name: str, text: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, formatter_class=_Formatter
    )
    parser.add_argument("--log", metavar="FILE", help="append what is done to FILE")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
    parser.set_defaults(run=run)
    return parser


def _add_snapshot(commands: Any) -> None:
    parser = _add(commands, "snapshot", "write an image of a process", _run_snapshot)
    parser.add_argument("pid", type=_pid, metavar="PID")
    parser.add_argument("-o", "--output", metavar="FILE", help="image (PID.ckpt), - for stdout")
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--leave-running", action="store_true", help="let the process run on")
    after.add_argument("--leave-stopped", action="store_true", help="leave it stopped (SIGSTOP)")
    parser.add_argument("--no-bpf", action="store_true", help="look without BPF")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="to stop the process, and without progress after it (30)",
    )
    parser.add_argument("--deadline", type=_seconds, metavar="S", help="for everything")


def _add_restore(commands: Any) -> None:
    parser = _add(commands, "restore", "put a process back from its image", _run_restore)
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


def _run_snapshot(args: argparse.Namespace, report: Reporter) -> int:
    from ckpt.objects.base import Options
    from ckpt.snapshot import snapshot

    options = Options(
        leave_running=args.leave_running,
        leave_stopped=args.leave_stopped,
        no_bpf=args.no_bpf,
        timeout_s=args.timeout,
        deadline_s=args.deadline,
    )
    output = sys.stdout.fileno() if args.output == "-" else args.output
    result = snapshot(args.pid, output, options, report)
    _print_warnings(result.warnings, report)
    stream = sys.stderr if args.output == "-" else sys.stdout
    if args.json:
        print(_json(_plain(result)), file=stream)
    else:
        text = (
            f"process {result.pid}: {result.threads} threads, {result.image_bytes} bytes in "
            f"{result.image}, frozen {result.frozen_s:.3f} s"
        )
        print(escape(text), file=stream)
    return 0


def _run_restore(args: argparse.Namespace, report: Reporter) -> int:
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
    _print_warnings(result.warnings, report)
    if args.json:
        print(_json({**_plain(result), "image": path}), flush=True)
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
        print(_json({"pid": records.processes[0].tgid, **plain}))
    else:
        for call in calls:
            print(f"{call.line()}; {call.instruction}")
        for line in plan_lines(plan):
            print(line)
    raise_blockers(found, "cannot be restored here")
    return 0


def _run_show(args: argparse.Namespace, _report: Reporter) -> int:
    from ckpt.debug.show import json_parts, show_lines
    from ckpt.restore import open_image

    with open_image(args.image) as image:
        if args.json:
            for part in json_parts(image):
                sys.stdout.write(part)
            print()
        else:
            for line in show_lines(image):
                print(line)
    return 0


def _run_verify(args: argparse.Namespace, report: Reporter) -> int:
    from ckpt.debug.check_image import verify_image

    report("check of the image", 0, 0)
    found = []
    for finding in verify_image(args.image, lambda done, all_: report("pages", done, all_)):
        found.append(finding)
        if not args.json:
            kind = "" if finding.blocker else "warning: "
            print(escape(f"{kind}{finding}"))
    good = not any(finding.blocker for finding in found)
    if args.json:
        print(_json({"image": args.image, "ok": good, "findings": list(map(_row, found))}))
    elif good:
        print(escape(f"{args.image}: whole, consistent, restorable here"))
    return 0 if good else 1


def _run_check(args: argparse.Namespace, _report: Reporter) -> int:
    from ckpt.host.probe import check_features

    features = check_features()
    if args.json:
        print(_json([feature._asdict() for feature in features]))
        return 0
    for feature in features:
        detail = f" ({feature.detail})" if feature.detail else ""
        print(escape(f"{'yes' if feature.ok else 'NO':3} {feature.name}{detail}"))
        if not feature.ok:
            print(escape(f"      without it: {feature.effect}"))
            print(escape(f"      remedy: {feature.remedy}"))
    return 0


def _json(value: Any) -> str:
    import json

    return json.dumps(value)


def _plain(result: Any) -> dict[str, Any]:
    fields = dict(result._asdict())
    fields["warnings"] = [str(finding) for finding in fields["warnings"]]
    return fields


def _row(finding: Finding) -> dict[str, Any]:
    return dict(finding._asdict())


def _print_warnings(findings: Iterable[Finding], report: Reporter) -> None:
    for finding in findings:
        print(f"ckpt-bpf: warning: {escape(str(finding))}", file=sys.stderr)
        report.note(f"warning: {finding}")


def _print_error(error: CkptError, args: argparse.Namespace) -> None:
    print(f"ckpt-bpf: {escape(str(error))}", file=sys.stderr)
    findings = error.findings if isinstance(error, RefusedError) else ()
    for finding in findings:
        print(f"  {escape(str(finding))}", file=sys.stderr)
        if finding.hint:
            print(f"    hint: {escape(finding.hint)}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {escape(error.hint)}", file=sys.stderr)
    if args.json and getattr(args, "output", None) != "-" and not getattr(args, "dry_run", False):
        rows = list(map(_row, findings))
        print(_json({"error": str(error), "hint": error.hint, "findings": rows}))


def _run(args: argparse.Namespace, report: Reporter) -> int:
    try:
        code = int(args.run(args, report))
        sys.stdout.flush()
        return code
    except CkptError as error:
        _print_error(error, args)
        report.note(f"failed: {error}")
        if isinstance(error, RefusedError):
            for finding in error.findings:
                report.note(f"  {finding}")
    except BrokenPipeError:
        # Nobody reads on (`show FILE | head`). What is still buffered must not be tried again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        import traceback

        name = type(error).__name__
        text = f"internal error, please report it: {name}: {escape(str(error)[:500])}"
        print(f"ckpt-bpf: {text}", file=sys.stderr)
        report.note(text)
        report.log_traceback("".join(traceback.format_exception(error)))
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    # What our parent had us ignore (nohup, a shell's background job) stays ignored.
    asked = [signo for signo in _ENDING if signal.getsignal(signo) is not signal.SIG_IGN]
    before = {signo: signal.signal(signo, end_on_signal) for signo in asked}
    try:
        return _run_with_report(build_parser().parse_args(argv))
    except InterruptError as error:
        print(f"ckpt-bpf: {error}", file=sys.stderr)
        return 1
    finally:
        for signo, handler in before.items():
            signal.signal(signo, handler)


def _run_with_report(args: argparse.Namespace) -> int:
    bar = sys.stderr if sys.stderr.isatty() and not args.verbose else None
    try:
        with Reporter(args.log, sys.stderr if args.verbose else None, bar) as report:
            return _run(args, report)
    except CkptError as error:
        _print_error(error, args)
    return 1


def command() -> NoReturn:
    """Run one command as a program of its own, and end at once.

    Taking the interpreter down in order costs a tenth of a small snapshot's time.
    """
    code = main()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or 1
    os._exit(code)


if __name__ == "__main__":
    command()

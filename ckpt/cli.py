"""The command line: arguments, printing, exit codes. Nothing else in the package prints.

Exit codes: 0 done, 1 refused or failed (the reason is on stderr), 2 wrong usage. `restore` without
`--detach` exits as the restored process did.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ckpt.errors import CkptError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.errors import Finding
    from ckpt.restore import RestoreResult


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="ckpt-bpf", description="Checkpoint and restore running processes."
    )
    parser.add_argument("--version", action="version", version="ckpt-bpf 0.1.0")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_snapshot(commands)
    _add_restore(commands)
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text}: not a positive number of seconds")
    return value


def _pid(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"{text}: not a pid")
    return int(text)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log", metavar="FILE", help="write what is done to FILE")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="say more on stderr")


def _add_snapshot(commands: Any) -> None:
    parser = commands.add_parser("snapshot", help="write an image of a process")
    parser.add_argument("pid", type=_pid, metavar="PID")
    parser.add_argument("-o", "--output", metavar="FILE", help="image file, - for stdout")
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--leave-running", action="store_true", help="let the process run on")
    after.add_argument("--leave-stopped", action="store_true", help="leave it stopped (SIGSTOP)")
    parser.add_argument("--no-bpf", action="store_true", help="look without BPF")
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, metavar="S", help="without progress (30)"
    )
    parser.add_argument("--deadline", type=_seconds, metavar="S", help="for everything")
    _add_common(parser)
    parser.set_defaults(run=_run_snapshot)


def _add_restore(commands: Any) -> None:
    parser = commands.add_parser("restore", help="put a process back from its image")
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
    _add_common(parser)
    parser.set_defaults(run=_run_restore)


def _run_snapshot(args: argparse.Namespace) -> int:
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
    result = snapshot(args.pid, output, options)
    _print_findings(result.warnings)
    stream = sys.stderr if args.output == "-" else sys.stdout
    if args.json:
        print(json.dumps(_plain(result)), file=stream)
    else:
        print(
            f"process {result.pid}: {result.threads} threads, {result.image_bytes} bytes in "
            f"{result.image}, frozen {result.frozen_s:.3f} s",
            file=stream,
        )
    return 0


def _run_restore(args: argparse.Namespace) -> int:
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
    if args.detach:
        _report_restored(args, path, restore(path, options))
        return 0
    from ckpt.host.terminal import Attendant

    with ExitStack() as stack:
        attendants: list[Attendant] = []

        def attend(pid: int) -> None:
            attendants.append(stack.enter_context(Attendant(pid)))

        _report_restored(args, path, restore(path, options, before_commit=attend))
        return _exit_code(attendants[0].wait())


def _report_restored(args: argparse.Namespace, path: str, result: RestoreResult) -> None:
    _print_findings(result.warnings)
    if args.pidfile:
        with open(args.pidfile, "w") as file:
            file.write(f"{result.pid}\n")
    if args.json:
        print(json.dumps(_plain(result)), flush=True)
    elif args.detach or args.verbose:
        text = f"process {result.pid}: {result.threads} threads, from {path}"
        print(text, file=sys.stdout if args.detach else sys.stderr, flush=True)


def _newest_image() -> str:
    images = [name for name in os.listdir() if name.endswith(".ckpt")]
    if not images:
        raise CkptError("no *.ckpt in this folder", hint="name the image: ckpt-bpf restore FILE")
    newest = max(images, key=lambda name: os.stat(name).st_mtime_ns)
    print(f"restoring {newest}", file=sys.stderr)
    return newest


def _exit_code(status: int) -> int:
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def _plain(result: Any) -> dict[str, Any]:
    fields = result._asdict()
    if "warnings" in fields:
        fields["warnings"] = [str(finding) for finding in fields["warnings"]]
    return dict(fields)


def _print_findings(findings: Iterable[Finding]) -> None:
    from ckpt.debug.text import escape

    for finding in findings:
        print(f"ckpt-bpf: warning: {escape(str(finding))}", file=sys.stderr)


def _print_error(error: CkptError) -> None:
    from ckpt.debug.text import escape

    print(f"ckpt-bpf: {escape(str(error))}", file=sys.stderr)
    for finding in error.findings if isinstance(error, RefusedError) else ():
        print(f"  {escape(str(finding))}", file=sys.stderr)
        if finding.hint:
            print(f"    hint: {escape(finding.hint)}", file=sys.stderr)
    if error.hint:
        print(f"  hint: {escape(error.hint)}", file=sys.stderr)


def _terminate(signo: int, _frame: object) -> None:
    raise SystemExit(128 + signo)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    args = build_parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return int(args.run(args))
    except CkptError as error:
        _print_error(error)
    except KeyboardInterrupt:
        print("ckpt-bpf: interrupted", file=sys.stderr)
    except BrokenPipeError:
        print("ckpt-bpf: the reader of our output has gone", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""The command line: which command, how errors are told, exit codes.

The commands are in `ckpt.commands`. Nothing else in the package prints.

Exit codes: 0 done, 1 refused or failed (the reason is on stderr), 2 wrong usage. `restore` without
`--detach` exits as the restored process did.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from ckpt.commands import COMMANDS
from ckpt.commands.common import plain_finding, to_json
from ckpt.commands.parser import build_parser
from ckpt.debug.report import Reporter
from ckpt.debug.text import escape
from ckpt.errors import CkptError, InterruptError, RefusedError
from ckpt.host.watch import end_on_signal

if TYPE_CHECKING:
    from collections.abc import Sequence


_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
        rows = list(map(plain_finding, findings))
        print(to_json({"error": str(error), "hint": error.hint, "findings": rows}))


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
        arguments = sys.argv[1:] if argv is None else list(argv)
        only = arguments[0] if arguments and arguments[0] in COMMANDS else None
        return _run_with_report(build_parser(only).parse_args(arguments))
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

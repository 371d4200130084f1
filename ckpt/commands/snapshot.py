"""`ckpt-bpf snapshot`: write an image of a process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ckpt.commands.common import pid, plain_result, print_warnings, seconds, to_json
from ckpt.debug.text import escape

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.report import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("pid", type=pid, metavar="PID")
    parser.add_argument("-o", "--output", metavar="FILE", help="image (PID.ckpt), - for stdout")
    after = parser.add_mutually_exclusive_group()
    after.add_argument("--leave-running", action="store_true", help="let the process run on")
    after.add_argument("--leave-stopped", action="store_true", help="leave it stopped (SIGSTOP)")
    parser.add_argument("--no-bpf", action="store_true", help="look without BPF")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="S",
        help="to stop the process, and without progress after it (30)",
    )
    parser.add_argument("--deadline", type=seconds, metavar="S", help="for everything")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code."""
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
    print_warnings(result.warnings, report)
    stream = sys.stderr if args.output == "-" else sys.stdout
    if args.json:
        print(to_json(plain_result(result)), file=stream)
    else:
        text = (
            f"process {result.pid}: {result.threads} threads, {result.image_bytes} bytes in "
            f"{result.image}, frozen {result.frozen_s:.3f} s"
        )
        print(escape(text), file=stream)
    return 0

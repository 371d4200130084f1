"""`ckpt-bpf core`: a core file for gdb, lldb or drgn, of an image or of a running process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ckpt.commands.common import pid, plain_result, print_warnings, seconds, to_json
from ckpt.debug.text import escape

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.core import CoreResult
    from ckpt.debug.report import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("image", nargs="?", metavar="FILE", help="image, - for stdin")
    source.add_argument("--live", type=pid, metavar="PID", help="a running process instead")
    parser.add_argument("-o", "--output", metavar="CORE", help="core (core.PID), - for stdout")
    parser.add_argument("--pid", type=pid, metavar="N", help="which process of the image")
    parser.add_argument(
        "--full", action="store_true", help="with what mapped files hold, programs and libraries"
    )
    parser.add_argument("--no-bpf", action="store_true", help="with --live: look without BPF")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="S",
        help="with --live: to stop the process, and without progress after it (30)",
    )
    parser.add_argument("--deadline", type=seconds, metavar="S", help="with --live: for everything")
    parser.set_defaults(wrong_usage=parser.error)


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code."""
    if args.live is not None and args.pid is not None:
        args.wrong_usage("--pid chooses from an image: not allowed with --live")
    if args.output == "-" and sys.stdout.isatty():
        args.wrong_usage("-o -: standard output is a terminal")
    output = sys.stdout.fileno() if args.output == "-" else args.output
    result = _of_image(args, output, report) if args.live is None else _live(args, output, report)
    print_warnings(result.warnings, report)
    stream = sys.stderr if args.output == "-" else sys.stdout
    print(to_json(plain_result(result)) if args.json else escape(_line(result)), file=stream)
    return 0


def _of_image(args: argparse.Namespace, output: str | int | None, report: Reporter) -> CoreResult:
    from ckpt.debug.core import core_of_image
    from ckpt.restore import open_image

    with open_image(args.image) as image:
        report("write the core", 0, 0)
        return core_of_image(
            image,
            output,
            args.pid,
            lambda done, total: report("write the core", done, total),
            full=args.full,
        )


def _live(args: argparse.Namespace, output: str | int | None, report: Reporter) -> CoreResult:
    from ckpt.debug.core import core_of_process
    from ckpt.objects.base import Options

    options = Options(
        leave_running=True, no_bpf=args.no_bpf, timeout_s=args.timeout, deadline_s=args.deadline
    )
    return core_of_process(args.live, output, options, report, full=args.full)


def _line(result: CoreResult) -> str:
    frozen = "" if result.frozen_s is None else f", frozen {result.frozen_s:.3f} s"
    return (
        f"process {result.pid}: {result.threads} threads, {result.core_bytes} bytes "
        f"({result.disk_bytes} on disk) in {result.core}{frozen}"
    )

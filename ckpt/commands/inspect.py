"""`ckpt-bpf inspect`: a first look at a live process or thread; nothing is stopped."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from ckpt.commands.common import pid, seconds
from ckpt.errors import CaptureError, InterruptError

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.inspect import Inspector
    from ckpt.debug.inspect_types import Inspection
    from ckpt.debug.report import Reporter

_CLEAR: Final = "\x1b[H\x1b[2J\x1b[3J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("pid", type=pid, metavar="PID|TID", help="a process, or one thread")
    parser.add_argument(
        "--watch", type=seconds, metavar="S", help="again every S seconds, until Ctrl-C"
    )
    parser.add_argument("--no-bpf", action="store_true", help="use /proc alone")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code."""
    from ckpt.debug.inspect import Inspector

    with Inspector(use_bpf=not args.no_bpf) as inspector:
        if inspector.why_no_bpf:
            report.note(f"without BPF: {inspector.why_no_bpf}")
        look = inspector.inspect(args.pid)
        if args.watch is None:
            _write(look, args)
        else:
            _watch(inspector, look, args)
    return 0


def _write(look: Inspection, args: argparse.Namespace, head: str = "") -> None:
    """Write one look at once, so that a terminal shows no half of it."""
    if args.json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(look).decode() + "\n")
    else:
        from ckpt.debug.inspect_text import inspection_lines

        lines = "\n".join(inspection_lines(look))
        sys.stdout.write(f"{head}{lines}\n")
    sys.stdout.flush()


def _watch(inspector: Inspector, look: Inspection, args: argparse.Namespace) -> None:
    """Look again and again; end with the task, or when we are told to."""
    redraws = sys.stdout.isatty()
    began, number = time.monotonic(), 0
    try:
        while True:
            number += 1
            clock = time.strftime("%H:%M:%S")
            title = f"every {args.watch:g} s, look {number} at {clock}; Ctrl-C ends\n\n"
            between = "\n" if number > 1 else ""
            _write(look, args, _CLEAR + title if redraws else f"{between}{title}")
            wait_s = began + number * args.watch - time.monotonic()
            time.sleep(max(wait_s, 0))
            look = inspector.inspect(args.pid)
    except InterruptError:
        return
    except CaptureError as error:
        # That it has ended is what the watch was for; a first look that fails is an error.
        print(f"ckpt-bpf: {error}: the watch ends after {number} looks", file=sys.stderr)

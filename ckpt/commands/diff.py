"""`ckpt-bpf diff`: what changed between two images of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt.commands.common import to_json

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.report import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("before", metavar="A", help="image, - for stdin")
    parser.add_argument("after", metavar="B", help="image, - for stdin")
    parser.epilog = (
        "Exits with 0 whenever the images could be compared, whether they differ or not; --json "
        'says so in "same", and is complete where the text is cut.'
    )


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code."""
    from ckpt.debug.diff import compare_images, plain
    from ckpt.debug.diff_text import diff_lines
    from ckpt.debug.session import open_session
    from ckpt.errors import CkptError

    if args.before == args.after == "-":
        raise CkptError("only one of the images can come from standard input")
    report("read the images", 0, 0)
    with open_session(args.before) as before, open_session(args.after) as after:
        report("compare", 0, 0)
        found = compare_images(before, after)
        if args.json:
            print(to_json(plain(found)))
        else:
            for line in diff_lines(found, before, after):
                print(line)
    return 0

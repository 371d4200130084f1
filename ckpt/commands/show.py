"""`ckpt-bpf show`: print every record of an image."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.report import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("image", metavar="FILE", help="image, - for stdin")


def run(args: argparse.Namespace, _report: Reporter) -> int:
    """Run the command; return its exit code."""
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

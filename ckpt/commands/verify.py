"""`ckpt-bpf verify`: is an image whole, and restorable here?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt.commands.common import plain_finding, to_json
from ckpt.debug.text import escape

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.report import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("image", metavar="FILE", help="image, - for stdin")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code."""
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
        print(
            to_json({"image": args.image, "ok": good, "findings": list(map(plain_finding, found))})
        )
    elif good:
        print(escape(f"{args.image}: whole, consistent, restorable here"))
    return 0 if good else 1

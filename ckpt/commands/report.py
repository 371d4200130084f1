"""`ckpt-bpf report`: an image as one page for a browser."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from ckpt.commands.common import to_json
from ckpt.debug.text import escape

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.report import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("image", metavar="FILE", help="image, - for stdin")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PAGE",
        default="report.html",
        help="the page (report.html), - for stdout",
    )


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Run the command; return its exit code."""
    from ckpt.debug.html_page import build_page
    from ckpt.restore import open_image

    with open_image(args.image) as image:
        report("the page", 0, 0)
        page = build_page(image)
    if args.output == "-":
        sys.stdout.write(page)
        return 0
    size = _write(args.output, page)
    if args.json:
        print(to_json({"output": args.output, "bytes": size}))
    else:
        print(escape(f"{args.output}: {size} bytes"))
    return 0


def _write(path: str, page: str) -> int:
    """Write the page beside its name, then rename: a reader never sees half of it.

    Raises:
        CkptError: it cannot be written.
    """
    from ckpt.errors import CkptError

    content = page.encode("utf-8", "backslashreplace")
    temporary = f"{path}.{os.getpid()}.partial"
    try:
        # What the process was called and had open is not for everybody.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
        os.rename(temporary, path)
    except OSError as error:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise CkptError("the page cannot be written", where=path, errno=error.errno) from error
    return len(content)

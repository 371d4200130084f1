"""`verify`: is an image whole, do its records fit together, can it be restored on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckpt.errors import CkptError, Finding, ImageError, RefusedError
from ckpt.objects.base import Options, Records
from ckpt.objects.consistency import check_records
from ckpt.plan import build_plan
from ckpt.restore import find_obstacles, open_image, read_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.image.output import Progress
    from ckpt.image.reader import ImageFile


def verify_image(path: str, progress: Progress | None = None) -> Iterator[Finding]:
    """Yield a finding for each thing that is wrong with the image at `path`, or here.

    Blockers stand in the way of a restore; the others are differences that it will have. What the
    later checks would stand on must be right first: damage ends the list.
    """
    try:
        image = open_image(path)
    except ImageError as error:
        yield _finding(path, error)
        return
    with image:
        damaged = False
        for fault in image.find_bad_pages(progress):
            damaged = True
            yield _finding(path, fault)
        records = Records(image.records)
        for finding in check_records(records, image.pages):
            damaged = True
            yield finding
        if not damaged:
            yield from find_differences(image, records, Options())


def _finding(path: str, error: CkptError) -> Finding:
    where = error.where or path
    return Finding(where, str(error).removeprefix(f"{where}: "), error.hint)


def find_differences(image: ImageFile, records: Records, options: Options) -> Iterator[Finding]:
    """Yield what stands in the way of restoring an image here, and what would differ."""
    yield from find_obstacles(records, options)
    try:
        plan = build_plan(records, read_facts(image), options)
    except RefusedError as error:
        yield from error.findings
    except CkptError as error:
        yield _finding("plan", error)
    else:
        yield from plan.warnings

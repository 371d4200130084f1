"""The order of a restore's steps. What each step does is the business of the modules it calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ckpt.host.probe import probe_host
from ckpt.image.reader import open_image_file
from ckpt.objects import modules, record_types
from ckpt.objects.base import Options, Records, raise_blockers
from ckpt.plan import Plan, build_plan
from ckpt.restorer import Restorer

if TYPE_CHECKING:
    from ckpt.image.reader import ImageFile


class RestoreResult(NamedTuple):
    """What a restore did; the process runs, as our child."""

    pid: int
    threads: int


def restore(path: str, options: Options | None = None) -> RestoreResult:
    """Restore the process of the image at `path`; it runs when this returns.

    Raises:
        CkptError: nothing of the process exists.
    """
    options = options or Options()
    with open_image_file(path, record_types()) as image:
        records = Records(image.records)
        plan = make_plan(image, records, options)
        with Restorer(image, records, plan) as restorer:
            restorer.start()
            for run in plan.runs():
                restorer.carry_out(run)
            restorer.commit(options)
    root = records.processes[0]
    return RestoreResult(root.tgid, len(root.tids))


def make_plan(image: ImageFile, records: Records, options: Options) -> Plan:
    """Check the host's files, then build the plan."""
    clocks = image.header.clocks
    facts = msgspec.structs.replace(
        probe_host(),
        snapshot_monotonic_ns=clocks.monotonic_ns,
        snapshot_boottime_ns=clocks.boottime_ns,
        snapshot_realtime_ns=clocks.realtime_ns,
    )
    found = []
    for module in modules():
        if hasattr(module, "preflight"):
            found += module.preflight(records, options)
    raise_blockers(found, "cannot be restored here")
    return build_plan(records, facts, options)

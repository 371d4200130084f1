"""Control group membership: recorded, not restored. A process joins the cgroups of restore."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ckpt.objects.base import Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, Records


class CgroupRecord(Record, frozen=True, tag="cgroup"):
    """The lines of /proc/PID/cgroup: `hierarchy:controllers:path`."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"lines"})

    tgid: int
    lines: list[str]


RECORDS = (CgroupRecord,)


def capture(process: Process) -> bytes:
    """Read the membership of the process (of a living thread)."""
    return process.read("cgroup")


def finish(raw: bytes, process: Process) -> Iterable[CgroupRecord]:
    """Make the record."""
    lines = raw.decode("utf-8", "backslashreplace").splitlines()
    return (CgroupRecord(tgid=process.tgid, lines=lines),)


def plan(records: Records, build: Builder) -> None:
    """Warn of each hierarchy in which the process was elsewhere."""
    here = set(build.host.inherited.cgroups)
    for record in records.of(CgroupRecord):
        elsewhere = [line for line in record.lines if line not in here]
        if elsewhere:
            hint = "move it there after the restore, or run restore in that cgroup"
            what = "will be in restore's cgroups, not in " + ", ".join(elsewhere)
            build.warn(f"process {record.tgid}", what, hint)

"""The vdso: kernel code in the target's memory, whose addresses the C library keeps.

A restored process gets this machine's vdso where its own was. If that is other code, the functions
must stand at the same offsets, and no thread may have been stopped inside it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckpt.arch.x86_64 import vdso
from ckpt.arch.x86_64.vdso import SpecialMapping
from ckpt.errors import Finding
from ckpt.objects.base import Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.objects.base import Options, Process, Records

_HINT = "restore on the kernel that the snapshot was made on"


class VdsoRecord(Record, tag="vdso", frozen=True):
    """The vdso of one process: where it and its data lie, and its bytes."""

    tgid: int
    mappings: list[SpecialMapping]
    content: bytes
    threads_inside: list[int]


RECORDS = (VdsoRecord,)


def capture(process: Process) -> VdsoRecord:
    """Read the vdso; it is a few pages."""
    mappings = [
        SpecialMapping(line.name.decode(), line.start, line.end)
        for line in process.read_maps()
        if line.name.decode("latin-1") in vdso.SPECIAL_NAMES
    ]
    content, inside = b"", []
    for mapping in mappings:
        if mapping.name == vdso.VDSO:
            with open(process.path("mem"), "rb", buffering=0) as memory:
                content = os.pread(memory.fileno(), mapping.end - mapping.start, mapping.start)
            inside = [
                tid
                for tid, stop in process.stops.items()
                if mapping.start <= stop.regs.rip < mapping.end
            ]
    return VdsoRecord(tgid=process.tgid, mappings=mappings, content=content, threads_inside=inside)


def finish(record: VdsoRecord, _process: Process) -> Iterator[Record]:
    """Hand the record on."""
    yield record


def preflight(records: Records, _options: Options) -> Iterator[Finding]:
    """Compare with the vdso of this kernel."""
    for record in records.of(VdsoRecord):
        if not record.mappings:
            continue
        where = f"process {record.tgid} vdso"
        host, placed = vdso.read_host_vdso()
        for problem in vdso.compare_placement(record.mappings, placed):
            yield Finding(where, problem, _HINT)
        if record.content == host:
            continue
        for problem in vdso.compare_vdso(record.content, host):
            yield Finding(where, problem, _HINT)
        for tid in record.threads_inside:
            yield Finding(f"tid {tid}", "was stopped inside another kernel's vdso", _HINT)

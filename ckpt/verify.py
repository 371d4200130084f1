"""`restore --verify`: capture the restored process once more and compare, record by record.

Runs while every thread stands in its trap, before the commit. Each record type names the fields
that differ by nature (VOLATILE); pages are compared with the image's bytes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ckpt import target
from ckpt.arch.x86_64.regs import REGS_SIZE, parse_regs
from ckpt.host import ptrace
from ckpt.objects import modules
from ckpt.objects.base import Identities, Options, Process, ProcessRecord, Records
from ckpt.objects.rseq import RseqRecord
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable, Iterator

    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import Record

_KEYS: Final = ("tid", "tgid", "ref", "timer_id", "fd")
_BUFFER_BYTES: Final = 1 << 20


class _Stop:
    """One thread of the restored process, parked with its final registers."""

    handled_signal = False
    reissue = None

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.regs = parse_regs(ptrace.get_regset(tid, ptrace.NT_PRSTATUS, REGS_SIZE))


class ComparingSink:
    """Takes captured pages like an image writer, and compares them with an image's."""

    def __init__(self, image: ImageFile, volatile: Iterable[tuple[int, int]]) -> None:
        self._image = image
        self._volatile = list(volatile)
        """(address, length) of what the kernel writes by itself."""
        self.differences: list[str] = []

    def store(self, ref: int, source_fd: int, extents: array[int], tid: int = 0) -> None:
        """Compare what the image has for `ref`; pages that only one side has must be zero."""
        del tid
        if ref not in self._image.pages:
            if extents:
                self.differences.append(f"object {ref}: {sum(extents[1::2])} bytes more")
            return
        recorded, offset = self._image.page_extents(ref)
        for start, length in _pairs(recorded):
            self._compare(ref, source_fd, start, length, offset)
            offset += length

    def _compare(self, ref: int, fd: int, start: int, length: int, offset: int) -> None:
        for at in range(0, length, _BUFFER_BYTES):
            size = min(_BUFFER_BYTES, length - at)
            now = os.pread(fd, size, start + at)
            then = os.pread(self._image.fd, size, offset + at)
            if now != then and self._blank(now, start + at) != self._blank(then, start + at):
                self.differences.append(f"object {ref}: pages at {start + at:#x} differ")
                return

    def _blank(self, content: bytes, address: int) -> bytes:
        """Return content with the volatile ranges zeroed."""
        blanked = bytearray(content)
        for start, length in self._volatile:
            low = max(start - address, 0)
            high = min(start + length - address, len(blanked))
            if low < high:
                blanked[low:high] = bytes(high - low)
        return bytes(blanked)


def _pairs(extents: array[int]) -> Iterator[tuple[int, int]]:
    return zip(extents[0::2], extents[1::2], strict=True)


def find_differences(
    image: ImageFile, records: Iterable[Record], tids: list[int], options: Options
) -> list[str]:
    """Capture the parked process of `tids` and say in what it is not the recorded one."""
    records = list(records)
    skeleton = next(record for record in records if isinstance(record, ProcessRecord))
    process = Process(skeleton.tgid, options, Identities())
    process.pidfd = os.pidfd_open(skeleton.tgid)
    try:
        volatile: list[tuple[int, int]] = [
            span
            for module in modules()
            if hasattr(module, "volatile_memory")
            for span in module.volatile_memory(Records(records))
        ]
        sink = ComparingSink(image, volatile)
        found = list(_capture_again(process, skeleton, tids, sink))
    finally:
        os.close(process.pidfd)
    return [*compare_records(_expected(records), found), *sink.differences]


def _expected(records: Iterable[Record]) -> list[Record]:
    """Return the records with rip where threads go on that were inside a restartable sequence."""
    records = list(records)
    aborts = {one.tid: one.abort_ip for one in records if isinstance(one, RseqRecord)}
    return [
        msgspec.structs.replace(one, regs=msgspec.structs.replace(one.regs, rip=aborts[one.tid]))
        if isinstance(one, ThreadRecord) and aborts.get(one.tid)
        else one
        for one in records
    ]


def _capture_again(
    process: Process, skeleton: ProcessRecord, tids: list[int], sink: ComparingSink
) -> Iterator[Record]:
    from ckpt.snapshot import read_clocks

    process.sink = sink
    process.tids = [tid for tid in skeleton.tids if tid in tids]
    process.stops = {tid: _Stop(tid) for tid in process.tids}
    process.leader_alive = skeleton.leader_alive
    process.stopped_by = skeleton.stopped_by
    process.living_tid = process.tids[0]
    process.is_frozen = True
    read_clocks(process)
    with target.open_observer(process) as observer:
        target.observe_frozen(process, observer)
        raws = [
            (module, module.capture(process) if hasattr(module, "capture") else None)
            for module in modules()
        ]
    for module, raw in raws:
        if hasattr(module, "finish"):
            yield from module.finish(raw, process)


def compare_records(before: Iterable[Record], after: Iterable[Record]) -> list[str]:
    """Return one line for each field that differs; volatile fields are not looked at."""
    found = {_key(record): _comparable(record) for record in after}
    lines = []
    for record in before:
        other = found.pop(_key(record), None)
        name = " ".join(str(part) for part in _key(record))
        if other is None:
            lines.append(f"{name}: is missing")
        else:
            lines += [f"{name}: {text}" for text in _differing_fields(_comparable(record), other)]
    lines += [f"{' '.join(map(str, key))}: was not there" for key in found]
    return lines


def _comparable(record: Record) -> Record:
    """Let the record's own module take out what is no difference, such as a split of two areas."""
    for module in modules():
        if type(record) in getattr(module, "RECORDS", ()) and hasattr(module, "comparable"):
            return module.comparable(record)  # type: ignore[no-any-return]
    return record


def _key(record: Record) -> tuple[Any, ...]:
    tag = record.__struct_config__.tag
    # A record about several threads that are alike is known by the first of them.
    first = [] if isinstance(record, ProcessRecord) else getattr(record, "tids", [])[:1]
    return (tag, *(getattr(record, name) for name in _KEYS if hasattr(record, name)), *first)


def _differing_fields(before: Record, after: Record) -> Iterator[str]:
    volatile: frozenset[str] = getattr(before, "VOLATILE", frozenset())
    for name in before.__struct_fields__:
        old, new = getattr(before, name), getattr(after, name)
        if name not in volatile and old != new:
            yield f"{name}: {_describe_change(old, new)}"


def _describe_change(old: object, new: object) -> str:
    """Return the change in one value; of two lists, the first element that differs."""
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return f"had {len(old)} entries, has {len(new)}"
        at = next(
            index for index, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1]
        )
        return f"entry {at} was {_shown(old[at])}, is {_shown(new[at])}"
    return f"was {_shown(old)}, is {_shown(new)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) < 300 else text[:297] + "..."

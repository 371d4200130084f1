"""Do the records of an image fit together: does every reference resolve, is nothing there twice.

Pure, and cheap: every restore asks. What one record alone means is its own module's business.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from ckpt.errors import Finding
from ckpt.objects.areas import AreasRecord
from ckpt.objects.base import ProcessRecord, Records
from ckpt.objects.dispositions import Sighand
from ckpt.objects.file_kinds.common import FileRecord
from ckpt.objects.file_kinds.epoll import EpollFile
from ckpt.objects.file_kinds.inode import InodeContent
from ckpt.objects.file_kinds.regular import RegularFile
from ckpt.objects.file_kinds.socketpair import SocketFile
from ckpt.objects.files import FileTable
from ckpt.objects.fs import FsRecord
from ckpt.objects.locks import LocksRecord
from ckpt.objects.mm import MmRecord
from ckpt.objects.seccomp import SeccompFilterRecord, SeccompRecord
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from ckpt.objects.areas import Area
    from ckpt.objects.base import Record

_TOP: Final = 1 << 63
_PID_MAX: Final = 1 << 22
"""PID_MAX_LIMIT, `include/linux/threads.h`."""
_KEYS: Final = ("tid", "tgid", "ref", "timer_id")


def check_records(records: Records, pages: Mapping[int, Any]) -> Iterator[Finding]:
    """Yield a blocker for each contradiction; `pages` are an image's page objects by objref."""
    if not records.processes:
        yield Finding("image", "holds no process")
        return
    yield from _check_tasks(records)
    yield from _check_owners(records)
    yield from _check_duplicates(records)
    yield from _check_references(records)
    for layout in records.of(AreasRecord):
        yield from _check_areas(layout)
        if layout.ref in pages:
            yield from _check_extents(layout, pages[layout.ref].extents)
    known = {layout.ref for layout in records.of(AreasRecord)}
    known |= {content.ref for content in records.of(InodeContent)}
    for ref in pages:
        if ref not in known:
            yield Finding(f"pages of object {ref}", "belong to nothing")


def _check_tasks(records: Records) -> Iterator[Finding]:
    described = {record.tid for record in records.of(ThreadRecord)}
    seen: set[int] = set()
    for process in records.processes:
        where = f"process {process.tgid}"
        if not process.tids:
            yield Finding(where, "has no threads")
        for tid in process.tids:
            if not 0 < tid < _PID_MAX:
                yield Finding(where, f"has a thread with the impossible number {tid}")
            if tid in seen:
                yield Finding(f"tid {tid}", "is there twice")
            if tid not in described:
                yield Finding(f"tid {tid}", "has no thread record")
            seen.add(tid)
        if not 0 < process.tgid < _PID_MAX:
            yield Finding(where, "has an impossible number")
        if (process.tgid in process.tids) != process.leader_alive:
            yield Finding(where, "contradicts itself on whether its main thread lives")


def _check_owners(records: Records) -> Iterator[Finding]:
    """Whoever a record is about must be there."""
    tgids = {process.tgid for process in records.processes}
    tids = {tid for process in records.processes for tid in process.tids}
    for record in records:
        if isinstance(record, ProcessRecord):
            continue
        name = _name(record)
        tid, tgid = getattr(record, "tid", None), getattr(record, "tgid", None)
        if tid is not None and tid not in tids:
            yield Finding(name, f"is about thread {tid}, which is not there")
        if tgid is not None and tgid not in tgids:
            yield Finding(name, f"is about process {tgid}, which is not there")
        for member in getattr(record, "tids", ()):
            if member not in tids:
                yield Finding(name, f"is about thread {member}, which is not there")


def _check_duplicates(records: Records) -> Iterator[Finding]:
    seen: set[tuple[object, ...]] = set()
    for record in records:
        kind = "file" if isinstance(record, FileRecord) else _tag(record)
        key = (kind, *(getattr(record, field, None) for field in _KEYS), *_members(record))
        if key in seen:
            yield Finding(_name(record), "is there twice")
        seen.add(key)


def _members(record: Record) -> Iterable[int]:
    """Records about several threads: the first one tells them apart."""
    return tuple(getattr(record, "tids", ()))[:1]


def _check_references(records: Records) -> Iterator[Finding]:
    files = {record.ref for record in records if isinstance(record, FileRecord)}
    contents = {record.ref for record in records.of(InodeContent)}
    by_field: dict[str, set[int]] = {
        "mm": {r.ref for r in records.of(MmRecord)} & {r.ref for r in records.of(AreasRecord)},
        "files": {record.ref for record in records.of(FileTable)},
        "fs": {record.ref for record in records.of(FsRecord)},
        "sighand": {record.ref for record in records.of(Sighand)},
    }
    for process in records.processes:
        for field, known in by_field.items():
            yield from _resolve(process, f"its {field}", getattr(process, field), known)
    for locks in records.of(LocksRecord):
        yield from _resolve(locks, "its table", locks.files, by_field["files"])
    for table in records.of(FileTable):
        for entry in table.descriptors:
            yield from _resolve(table, f"fd {entry.fd}", entry.file, files)
        if len({entry.fd for entry in table.descriptors}) != len(table.descriptors):
            yield Finding(_name(table), "has a number twice")
    for socket in records.of(SocketFile):
        yield from _resolve(socket, "its peer", socket.peer, files | {0})
    for epoll in records.of(EpollFile):
        for watch in epoll.watches:
            yield from _resolve(epoll, f"watch {watch.fd}", watch.file, files | {0})
    for regular in records.of(RegularFile):
        if regular.is_kept:
            yield from _resolve(regular, "its content", regular.inode, contents)
    filters = {record.ref for record in records.of(SeccompFilterRecord)}
    for chain in records.of(SeccompRecord):
        for ref in chain.filters:
            yield from _resolve(chain, "a filter", ref, filters)
    for layout in records.of(AreasRecord):
        for file in layout.files:
            yield from _resolve(layout, "a mapped file's content", file.content, contents | {0})


def _resolve(record: Record, what: str, ref: int, known: Collection[int]) -> Iterator[Finding]:
    if ref not in known:
        yield Finding(_name(record), f"{what} is object {ref}, which is not there")


def _check_areas(layout: AreasRecord) -> Iterator[Finding]:
    end = 0
    for area in layout.areas:
        where = f"area {area.start:#x}"
        if not 0 <= area.start < area.end <= _TOP or (area.start | area.end) & 4095:
            yield Finding(where, f"has the impossible end {area.end:#x}")
        if area.start < end:
            yield Finding(where, "overlaps the one before, or is out of order")
        if not -1 <= area.file < len(layout.files):
            yield Finding(where, f"maps file number {area.file}, which is not there")
        end = max(end, area.end)


def _check_extents(layout: AreasRecord, extents: Any) -> Iterator[Finding]:
    """Find pages outside of every area. Extents are sorted; no code runs for each of them."""
    starts = extents[0::2]
    inside = 0
    for start, end in _merge(layout.areas):
        first, last = bisect_left(starts, start), bisect_left(starts, end) - 1
        if first > inside:
            break
        inside = max(inside, last + 1)
        if last >= first and starts[last] + extents[2 * last + 1] > end:
            yield Finding(f"pages at {starts[last]:#x}", f"go beyond their area's end {end:#x}")
    if inside < len(starts):
        yield Finding(f"pages at {starts[inside]:#x}", "lie outside of every area")


def _merge(areas: Iterable[Area]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of areas, neighbours without a gap as one."""
    span: tuple[int, int] | None = None
    for area in areas:
        if span is not None and span[1] == area.start:
            span = (span[0], area.end)
            continue
        if span is not None:
            yield span
        span = (area.start, area.end)
    if span is not None:
        yield span


def _tag(record: Record) -> str:
    return str(record.__struct_config__.tag)


def _name(record: Record) -> str:
    numbers = [f"{key} {getattr(record, key)}" for key in _KEYS if hasattr(record, key)]
    return " ".join([f"record {_tag(record)}", *numbers[:2]])

"""Memory areas: what is mapped where, the pages that hold something, and the files behind areas.

Owns the layout of an mm. The fields of struct mm_struct are `mm.py`'s, the content of deleted and
memory-only files is `file_kinds.inode`'s.
"""

from __future__ import annotations

import operator
import os
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec

from ckpt.errors import Finding
from ckpt.host import pagemap
from ckpt.objects import mapped_files
from ckpt.objects.area_actions import FillPages, MoveSpecial
from ckpt.objects.base import Plain, Record
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.maps_text import SPECIAL, MapsLine, SmapsEntry, parse_smaps
from ckpt.objects.mempolicy_text import build_mbind, parse_numa_maps
from ckpt.objects.passing import SendFds, batches, close_call, lowest_free, receive_call
from ckpt.objects.steps import (
    Call,
    Token,
    born,
    c_string,
    memory_filled,
    memory_mapped,
)
from ckpt.objects.vma_flags import IGNORED, PKEY_BITS, PKEY_SHIFT, STABLE_MASK, Vm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Builder, Options, Process, Records

SYS_MMAP, SYS_MPROTECT, SYS_MADVISE = 9, 10, 28
SYS_MLOCK2, SYS_PKEY_MPROTECT, SYS_MSEAL, SYS_PRCTL = 325, 329, 462, 157
PR_SET_VMA, PR_SET_VMA_ANON_NAME = 0x53564D41, 0

MAP_SHARED, MAP_PRIVATE, MAP_DROPPABLE, MAP_ANONYMOUS = 0x1, 0x2, 0x8, 0x20
MAP_GROWSDOWN, MAP_NORESERVE, MAP_HUGETLB, MAP_SYNC = 0x100, 0x4000, 0x40000, 0x80000
MAP_FIXED_NOREPLACE: Final = 0x100000
_HUGE_SHIFT: Final = 26

_ADVICE: Final = {
    Vm.RAND_READ: 1,
    Vm.SEQ_READ: 2,
    Vm.DONTCOPY: 10,
    Vm.MERGEABLE: 12,
    Vm.HUGEPAGE: 14,
    Vm.NOHUGEPAGE: 15,
    Vm.DONTDUMP: 16,
    Vm.WIPEONFORK: 18,
}
"""Flag -> MADV_* that sets it; `include/uapi/asm-generic/mman-common.h`."""
_MADV_GUARD_INSTALL: Final = 102
_MLOCK_ONFAULT: Final = 1

_UFFD: Final = int(Vm.UFFD_MISSING | Vm.UFFD_WP | Vm.UFFD_MINOR)
_IGNORED: Final = int(IGNORED)
_UNREADABLE: Final = (b"[vvar]", b"[vvar_vclock]")


class Area(Plain, array_like=True, frozen=True):
    """One struct vm_area_struct."""

    start: int
    end: int
    flags: int
    """`vma_flags.Vm`"""
    offset: int
    """Of the file, in bytes; 0 for anonymous memory."""
    file: int = -1
    """Index in `AreasRecord.files`; -1: no file."""
    pkey: int = 0
    page_kib: int = 4
    anon_name: bytes = b""
    special: bytes = b""
    """`[vdso]` and its like, which the kernel maps."""
    has_pages: bool = False
    """Not writable, but has pages of its own: it must be writable while they are read."""
    policy: str = ""
    """NUMA policy as numa_maps shows it, when it is not the task's."""

    @property
    def prot(self) -> int:
        """PROT_* of the area: the same three bits as VM_READ, VM_WRITE, VM_EXEC."""
        return self.flags & 7


class AreasRecord(Record, tag="areas", frozen=True):
    """The layout of one mm; pages of its own are stored under the same objref."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    ref: int
    areas: list[Area]
    files: list[MappedFile]
    guards: list[tuple[int, int]]
    """(start, length) of ranges made inaccessible by MADV_GUARD_INSTALL."""


RECORDS = (AreasRecord,)

_SUSPECT: Final = _UFFD | Vm.SHADOW_STACK | Vm.PFNMAP | Vm.IO | Vm.MIXEDMAP | Vm.HUGETLB
"""Flags that `_find_blocker` asks for."""


class _Raw(NamedTuple):
    lines: list[MapsLine]
    entries: dict[int, SmapsEntry]
    policies: dict[int, str]
    files: mapped_files.Capture
    guards: array[int]
    extents: array[int]


def survey(process: Process) -> Iterator[Finding]:
    """Look at the areas of the running process."""
    lines = process.read_maps()
    entries, _ = _read_entries(process)
    for line in lines:
        what = _find_blocker(line, entries.get(line.start))
        if what:
            yield Finding(f"process {process.tgid} area {line.start:#x}", *what)


def capture(process: Process) -> _Raw:
    """Read the layout, copy every page that holds something of its own."""
    lines = process.read_maps()
    entries, has_policy = _read_entries(process)
    for line in lines:
        what = _find_blocker(line, entries.get(line.start))
        if what:
            process.refuse(f"process {process.tgid} area {line.start:#x}", *what)
    files = mapped_files.capture(process, lines, entries)
    policies = parse_numa_maps(process.read("numa_maps")) if has_policy else {}
    guards, extents = _capture_pages(process, lines)
    return _Raw(lines, entries, policies, files, guards, extents)


def _capture_pages(process: Process, lines: list[MapsLine]) -> tuple[array[int], array[int]]:
    """Return the extents of guards, and of the pages that were stored."""
    ref = process.identities.ref("mm", process.tgid)
    pagemap_fd = os.open(process.path("pagemap"), os.O_RDONLY | os.O_CLOEXEC)
    mem_fd = os.open(process.path("mem"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        skip = [(line.start, line.end) for line in lines if line.name in _UNREADABLE]
        extents = pagemap.scan_own_pages(pagemap_fd, skip)
        guards = pagemap.scan_guard_pages(pagemap_fd)
        if process.sink is not None:
            process.sink.store(ref, mem_fd, extents, process.living_tid)
    finally:
        os.close(pagemap_fd)
        os.close(mem_fd)
    return guards, extents


def _read_entries(process: Process) -> tuple[dict[int, SmapsEntry], bool]:
    """Return flags of every area, and whether some have a NUMA policy of their own.

    BPF reads flags a hundred times faster than smaps, which walks the page tables; but what stands
    above bit 36 differs between kernels, and the size of huge pages is in smaps only.
    """
    views = process.read_areas()
    if views is None or any(view.flags >> 36 or view.flags & Vm.HUGETLB for view in views):
        entries = parse_smaps(process.read("smaps"))
        return entries, views is None or any(view.has_policy for view in views)
    found = {}
    has_policy = False
    for view in views:
        pkey = (view.flags & PKEY_BITS) >> PKEY_SHIFT
        found[view.start] = SmapsEntry(view.flags & STABLE_MASK, pkey, 4)
        has_policy = has_policy or view.has_policy
    return found, has_policy


def _find_blocker(line: MapsLine, entry: SmapsEntry | None) -> tuple[str, str] | None:
    """Return what cannot be restored of an area, and what to do."""
    flags = entry.flags if entry is not None else 0
    if not line.name and not flags & _SUSPECT:
        return None  # as nearly all of the many are
    if line.name in SPECIAL:
        return None
    if line.name.startswith(b"/SYSV"):
        return "System V shared memory: not supported", "detach it (shmdt) first"
    if line.name.startswith(b"/[aio]"):
        return "an AIO context: not supported", "let it call io_destroy first"
    if line.name.startswith(b"anon_inode:"):
        return f"{escape_name(line.name)} is mapped: not supported", "let it unmap that first"
    if flags & _UFFD:
        return "registered with userfaultfd: not supported", "end the userfaultfd first"
    if flags & Vm.SHADOW_STACK:
        return "a shadow stack: not supported", "start it without shadow stacks"
    if flags & (Vm.PFNMAP | Vm.IO | Vm.MIXEDMAP):
        return f"device memory of {escape_name(line.name)}: not supported", "close the device first"
    if flags & Vm.HUGETLB and flags & Vm.MAYSHARE:
        return "shared huge pages (hugetlb): not supported", "use private or transparent huge pages"
    return None


def escape_name(name: bytes) -> str:
    """Return a name for a message."""
    return name.decode("utf-8", "backslashreplace") or "no file"


def finish(raw: _Raw, process: Process) -> Iterator[Record]:
    """Make the record from what was read."""
    starts = raw.extents[0::2]
    ends = array("Q", map(operator.add, starts, raw.extents[1::2]))
    areas = []
    for line in raw.lines:
        if line.name == b"[vsyscall]":
            continue
        entry = raw.entries[line.start]
        named = line.name.startswith((b"[anon:", b"[anon_shmem:"))
        areas.append(
            Area(
                line.start,
                line.end,
                entry.flags & ~_IGNORED,
                line.offset if line.inode else 0,
                raw.files.index_of(line),
                entry.pkey,
                entry.page_kib,
                line.name.partition(b":")[2][:-1] if named else b"",
                line.name if line.name in SPECIAL else b"",
                _must_be_writable(entry.flags, line, starts, ends),
                raw.policies.get(line.start, ""),
            )
        )
    guards = [(raw.guards[i], raw.guards[i + 1]) for i in range(0, len(raw.guards), 2)]
    yield AreasRecord(
        ref=process.identities.ref("mm", process.tgid),
        areas=areas,
        files=raw.files.files,
        guards=guards,
    )


def _must_be_writable(flags: int, line: MapsLine, starts: array[int], ends: array[int]) -> bool:
    """Tell whether a private area that may not be written has pages of its own."""
    if flags & (Vm.WRITE | Vm.MAYSHARE):
        return False
    index = bisect_right(ends, line.start)
    return index < len(starts) and starts[index] < line.end


def comparable(record: AreasRecord) -> AreasRecord:
    """Merge neighbours that the kernel may merge: how memory is cut into areas is no difference."""
    merged: list[Area] = []
    for area in record.areas:
        last = merged[-1] if merged else None
        if last is not None and _continues(last, area):
            merged[-1] = msgspec.structs.replace(last, end=area.end)
        else:
            merged.append(area)
    # An inode that came from the image is a new one.
    files = [
        msgspec.structs.replace(file, dev=0, ino=0, mtime_ns=0) if file.content else file
        for file in record.files
    ]
    return msgspec.structs.replace(record, areas=merged, files=files)


def _continues(last: Area, area: Area) -> bool:
    """Tell whether `area` goes on where `last` ends, in memory and in its file."""
    offset = last.offset + last.end - last.start if area.file >= 0 else area.offset
    start = msgspec.structs.replace(last, start=area.start, end=area.end, offset=offset)
    return last.end == area.start and start == area and not area.special


def preflight(records: Records, _options: Options) -> Iterable[Finding]:
    """Find what has become of the mapped files."""
    for record in records.of(AreasRecord):
        private = {area.file for area in record.areas if not area.flags & Vm.MAYSHARE}
        files = [file for index, file in enumerate(record.files) if index in private]
        yield from mapped_files.check_unchanged(files)


def used_ranges(records: Records) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of everything the target maps: the tape must lie elsewhere."""
    for record in records.of(AreasRecord):
        for area in record.areas:
            yield area.start, area.end


def plan(records: Records, build: Builder) -> None:
    """Map everything, fill it, then set what must wait for the content."""
    layouts = {record.ref: record for record in records.of(AreasRecord)}
    for process in records.processes:
        _plan_process(process.tgid, layouts[process.mm], build)


def _plan_process(tgid: int, record: AreasRecord, build: Builder) -> None:
    anonymous = [area for area in record.areas if area.file < 0 and not area.special]
    spans = {area.special: (area.start, area.end) for area in record.areas if area.special}
    moved = Token("vdso", tgid)
    build.ptrace(
        tgid,
        MoveSpecial(tgid, spans),
        "move vdso and vvar",
        needs=(born(tgid),),
        provides=(moved,),
    )
    build.tape(
        tgid,
        [_mmap_call(area, -1) for area in anonymous],
        "map anonymous memory",
        needs=(moved,),
        provides=(memory_mapped(tgid),),
    )
    _plan_file_areas(tgid, record, build, moved)
    filled = Token("pages", record.ref)
    build.ptrace(
        tgid,
        FillPages(tgid, record.ref, build.socket_fd),
        "read pages",
        needs=(memory_mapped(tgid),),
        provides=(filled,),
    )
    build.tape(
        tgid,
        list(_finishing_calls(record)),
        "set protections and advice",
        needs=(filled,),
        provides=(memory_filled(tgid),),
    )


def _plan_file_areas(tgid: int, record: AreasRecord, build: Builder, moved: Token) -> None:
    by_file: dict[str, list[Area]] = {}
    for area in record.areas:
        if area.file >= 0:
            by_file.setdefault(f"map:{record.ref}:{area.file}", []).append(area)
    for index, file in enumerate(record.files):
        key = f"map:{record.ref}:{index}"
        if key in by_file:
            mapped_files.plan_open(file, key, by_file[key], build)
    previous = moved
    for number, keys in enumerate(batches(by_file)):
        sent = Token(f"sent:{record.ref}:{number}")
        build.host_step(
            SendFds(keys),
            "pass mapped files",
            needs=tuple(Token(f"opened:{key}") for key in keys),
            after=(previous,),
            provides=(sent,),
        )
        numbers = dict(zip(keys, lowest_free({build.socket_fd}), strict=False))
        calls = [receive_call(build.socket_fd, len(keys))]
        calls += [_mmap_call(area, numbers[key]) for key in keys for area in by_file[key]]
        calls += [close_call(number) for number in numbers.values()]
        previous = Token(f"mapped:{record.ref}:{number}")
        build.tape(
            tgid,
            calls,
            "map files",
            needs=(sent,),
            provides=(previous, memory_mapped(tgid)),
        )


def _mmap_call(area: Area, fd: int) -> Call:
    """Map one area; writable for now when pages may have to be read into it."""
    flags = MAP_FIXED_NOREPLACE
    flags |= MAP_SHARED if area.flags & Vm.MAYSHARE else MAP_PRIVATE
    # Only what has pages: a reservation of terabytes must not be charged, not even for a moment.
    prot = area.prot | Vm.WRITE if area.has_pages else area.prot
    if fd < 0:
        flags |= MAP_ANONYMOUS
    for vm, flag in (
        (Vm.GROWSDOWN, MAP_GROWSDOWN),
        (Vm.NORESERVE, MAP_NORESERVE),
        (Vm.SYNC, MAP_SYNC),
    ):
        if area.flags & vm:
            flags |= flag
    if area.flags & Vm.DROPPABLE:
        flags = flags & ~MAP_PRIVATE | MAP_DROPPABLE
    if area.flags & Vm.HUGETLB:
        flags |= MAP_HUGETLB | (area.page_kib * 1024).bit_length() - 1 << _HUGE_SHIFT
    size = area.end - area.start
    return Call(SYS_MMAP, (area.start, size, int(prot), int(flags), fd, area.offset), area.start)


def _finishing_calls(record: AreasRecord) -> Iterator[Call]:
    for area in record.areas:
        if not area.special:
            yield from _finish_area(area)
    for start, length in record.guards:
        yield Call(SYS_MADVISE, (start, length, _MADV_GUARD_INSTALL))
    for area in record.areas:
        if area.flags & Vm.SEALED and not area.special:
            yield Call(SYS_MSEAL, (area.start, area.end - area.start, 0))


def _finish_area(area: Area) -> Iterator[Call]:
    size = area.end - area.start
    if area.anon_name:
        name = c_string(area.anon_name)
        yield Call(SYS_PRCTL, (PR_SET_VMA, PR_SET_VMA_ANON_NAME, area.start, size, name))
    for flag, advice in _ADVICE.items():
        if area.flags & flag and not (area.flags & Vm.DROPPABLE and flag == Vm.WIPEONFORK):
            yield Call(SYS_MADVISE, (area.start, size, advice))
    if area.policy and area.policy != "default":
        yield build_mbind(area.start, size, area.policy)
    if area.pkey:
        yield Call(SYS_PKEY_MPROTECT, (area.start, size, area.prot, area.pkey))
    elif area.has_pages:
        yield Call(SYS_MPROTECT, (area.start, size, area.prot))
    if area.flags & Vm.LOCKED:
        onfault = _MLOCK_ONFAULT if area.flags & Vm.LOCKONFAULT else 0
        yield Call(SYS_MLOCK2, (area.start, size, onfault))

"""CPU state beside general registers: XSAVE areas, debug registers, TLS segments, the LDT.

General registers belong to `task.py`, which loads them last. The formats are those of
`ckpt.arch.x86_64`; an area goes to the host's layout component by component.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ckpt.arch.x86_64 import debugregs, tls, xstate
from ckpt.arch.x86_64.debugregs import X86DebugRegs
from ckpt.arch.x86_64.tls import UserDesc
from ckpt.arch.x86_64.xstate import Feature, Layout
from ckpt.errors import Finding
from ckpt.host import ptrace
from ckpt.objects.base import Record
from ckpt.objects.steps import Blob, Call, Token, born, memory_filled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.objects.base import Builder, Options, Process, Records, Restorer

SYS_MODIFY_LDT, SYS_ARCH_PRCTL = 154, 158
_LDT_WRITE: Final = 0x11
_ARCH_REQ_XCOMP_PERM: Final = 0x1023
_AMX_TILEDATA: Final = 18


class CpuRecord(Record, tag="cpu", frozen=True):
    """What a whole process has: its LDT, and how its XSAVE areas are laid out."""

    tgid: int
    layout: Layout
    ldt: list[UserDesc]


class XstateRecord(Record, tag="xstate", frozen=True):
    """The XSAVE area (NT_X86_XSTATE) of one thread, in the image's layout."""

    tid: int
    area: bytes


class SegmentsRecord(Record, tag="segments", frozen=True):
    """TLS segments and debug registers of one thread that has any."""

    tid: int
    tls: list[UserDesc]
    debug: X86DebugRegs


RECORDS = (CpuRecord, XstateRecord, SegmentsRecord)


class _Raw(NamedTuple):
    layout: Layout
    areas: dict[int, bytes]
    segments: dict[int, tuple[list[UserDesc], X86DebugRegs]]


def capture(process: Process) -> _Raw:
    """Read every thread's area and TLS entries; DR7 and DR6 tell whether there is more."""
    segments, areas = {}, {}
    for tid in process.stops:
        areas[tid] = ptrace.get_regset(tid, ptrace.NT_X86_XSTATE, xstate.MAX_AREA_SIZE)
        entries, debug = list(_read_tls(tid)), _read_debug(tid)
        if entries or debug != X86DebugRegs():
            segments[tid] = (entries, debug)
    return _Raw(xstate.read_host_layout(), areas, segments)


def _read_tls(tid: int) -> Iterator[UserDesc]:
    for number in tls.GDT_TLS_ENTRIES:
        try:
            raw = ptrace.get_record(tid, ptrace.Request.GET_THREAD_AREA, 16, number)
        except OSError as error:
            # Kernels without 32-bit emulation have neither the request nor such segments.
            if error.errno in (errno.EIO, errno.EINVAL):
                return
            raise
        desc = tls.parse_user_desc(raw)
        if not desc.is_empty:
            yield desc


def _read_debug(tid: int) -> X86DebugRegs:
    def read(number: int) -> int:
        return ptrace.peek_user(tid, debugregs.debugreg_offset(number))

    dr7, dr6 = read(7), read(6)
    if not dr7 and dr6 == debugregs.DR6_INITIAL:
        return X86DebugRegs()
    return X86DebugRegs(read(0), read(1), read(2), read(3), dr6, dr7)


def finish(raw: _Raw, process: Process) -> Iterator[Record]:
    """Make one record for the process, and one for each thread that has segments."""
    view = process.mm_view
    if view is not None and view.ldt is None:
        process.warn(f"process {process.tgid}", "its LDT was not seen: it is lost in a restore")
    ldt = tls.parse_ldt(view.ldt) if view is not None and view.ldt else []
    yield CpuRecord(tgid=process.tgid, layout=raw.layout, ldt=ldt)
    for tid, area in raw.areas.items():
        yield XstateRecord(tid=tid, area=area)
    for tid, (entries, debug) in raw.segments.items():
        yield SegmentsRecord(tid=tid, tls=entries, debug=debug)


def comparable(record: Record) -> Record:
    """Whether a component in its initial state counts as in use is chance: compare contents."""
    if not isinstance(record, XstateRecord):
        return record
    parts = xstate.split_area(record.area, xstate.read_host_layout())
    content = b"".join(name.encode() + parts[name] for name in sorted(parts))
    return msgspec.structs.replace(record, area=content)


def preflight(records: Records, _options: Options) -> Iterator[Finding]:
    """Find threads that use what this CPU lacks."""
    layouts = records.of(CpuRecord)
    if not layouts:
        return
    host = xstate.read_host_layout()
    for record in records.of(XstateRecord):
        for problem in xstate.check_area(record.area, layouts[0].layout) or (
            xstate.check_fits_host(record.area, layouts[0].layout, host)
        ):
            yield Finding(f"tid {record.tid}", problem, "restore on a CPU that has it")


def plan(records: Records, build: Builder) -> None:
    """Write the LDT by the leader; everything else from outside, on each stopped thread."""
    for record in records.of(CpuRecord):
        _plan_process(record, records, build)
        for area in records.of(XstateRecord):
            build.ptrace(
                area.tid,
                LoadXstate(area, record.layout),
                "load XSAVE state",
                needs=(born(area.tid),),
                after=(Token("amx", record.tgid),),
                provides=(Token("xstate", area.tid),),
            )
    for segments in records.of(SegmentsRecord):
        _plan_thread(segments, build)


def _plan_process(record: CpuRecord, records: Records, build: Builder) -> None:
    if record.ldt:
        calls = [_modify_ldt_call(desc) for desc in record.ldt]
        build.tape(record.tgid, calls, "write the LDT", needs=(memory_filled(record.tgid),))
    if any(
        xstate.parse_features(thread.area) & Feature.AMX_TILEDATA
        for thread in records.of(XstateRecord)
    ):
        build.tape(
            record.tgid,
            [Call(SYS_ARCH_PRCTL, (_ARCH_REQ_XCOMP_PERM, _AMX_TILEDATA))],
            "ask for AMX",
            needs=(born(record.tgid),),
            provides=(Token("amx", record.tgid),),
        )


def _modify_ldt_call(desc: UserDesc) -> Call:
    content = tls.encode_user_desc(desc)
    return Call(SYS_MODIFY_LDT, (_LDT_WRITE, Blob(content), len(content)))


def _plan_thread(record: SegmentsRecord, build: Builder) -> None:
    if record.tls or record.debug != X86DebugRegs():
        build.ptrace(
            record.tid,
            LoadSegments(record),
            "load TLS segments and debug registers",
            needs=(born(record.tid),),
        )


class LoadXstate:
    """Load a thread's XSAVE area; no call that a tape makes touches it."""

    def __init__(self, record: XstateRecord, layout: Layout) -> None:
        self.record = record
        self.layout = layout

    def perform(self, _restorer: Restorer) -> None:
        """Convert to this machine's layout, then load."""
        area = xstate.convert_area(self.record.area, self.layout, xstate.read_host_layout())
        ptrace.set_regset(self.record.tid, ptrace.NT_X86_XSTATE, area)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"xsave area with {xstate.name_features(xstate.parse_features(self.record.area))}"


class LoadSegments:
    """Load TLS segments and debug registers of a stopped thread from outside."""

    def __init__(self, record: SegmentsRecord) -> None:
        self.record = record

    def perform(self, _restorer: Restorer) -> None:
        """Addresses first, DR7 last: the kernel checks what it enables."""
        tid = self.record.tid
        for desc in self.record.tls:
            content = tls.encode_user_desc(desc)
            ptrace.set_record(tid, ptrace.Request.SET_THREAD_AREA, content, desc.entry_number)
        for offset, value in debugregs.build_writes(self.record.debug):
            ptrace.poke_user(tid, offset, value)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"{len(self.record.tls)} TLS entries, dr7 {self.record.debug.dr7:#x}"

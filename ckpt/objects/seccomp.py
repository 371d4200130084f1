"""Seccomp of each thread: strict mode, or a chain of filters.

Equal filters are one record. What all threads have in common is installed once and synchronised
(TSYNC), so that it is one kernel object again and the program itself can go on using TSYNC. Filters
are installed while we still have CAP_SYS_ADMIN; PTRACE_O_SUSPEND_SECCOMP lets our calls pass.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ckpt.errors import CaptureError
from ckpt.host import ptrace
from ckpt.host.status import parse_fields
from ckpt.objects.base import Record
from ckpt.objects.statuses import read_statuses
from ckpt.objects.steps import (
    Blob,
    Call,
    Token,
    born,
    memory_filled,
    seccomp_set,
    threads_exist,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.objects.base import Builder, Process, ProcessRecord, Records, Restorer

SYS_SECCOMP: Final = 317
"""`arch/x86/entry/syscalls/syscall_64.tbl`, 6.18."""

# `include/uapi/linux/seccomp.h`, 6.18.
SECCOMP_MODE_STRICT: Final = 1
SECCOMP_MODE_FILTER: Final = 2
SECCOMP_SET_MODE_STRICT: Final = 0
SECCOMP_SET_MODE_FILTER: Final = 1
FILTER_FLAG_TSYNC: Final = 1 << 0
FILTER_FLAG_LOG: Final = 1 << 1
FILTER_FLAG_SPEC_ALLOW: Final = 1 << 2
RET_ACTION_FULL: Final = 0xFFFF_0000
RET_USER_NOTIF: Final = 0x7FC0_0000

BPF_RET_K: Final = 0x06
"""BPF_RET | BPF_K, `include/uapi/linux/bpf_common.h`"""
MAX_INSTRUCTIONS: Final = 4096
CAP_SYS_ADMIN: Final = 21
_INSTRUCTION: Final = struct.Struct("<HBBI")
"""struct sock_filter, 8 bytes, `include/uapi/linux/filter.h`."""


class SeccompFilterRecord(Record, frozen=True, tag="seccomp_filter"):
    """One filter program, classic BPF."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    ref: int
    program: bytes
    logs: bool


class SeccompRecord(Record, frozen=True, tag="seccomp"):
    """The mode that all of `tids` are in, and their filters, the first installed first."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tgid: int
    tids: list[int]
    mode: int
    filters: list[int]


RECORDS = (SeccompFilterRecord, SeccompRecord)


class Filter(NamedTuple):
    """One filter as read."""

    program: bytes
    flags: int


def capture(process: Process) -> dict[int, tuple[Filter, ...]]:
    """Read the filters of every thread that is in a seccomp mode; strict ones have none."""
    found = {}
    for tid, mode in _modes(process).items():
        if mode:
            found[tid] = _read_chain(tid) if mode == SECCOMP_MODE_FILTER else ()
    for tid, chain in found.items():
        if any(has_user_notification(each.program) for each in chain):
            hint = "its supervisor would have to be snapshotted as well; stop it first"
            process.refuse(f"tid {tid}", "seccomp filter with a user notification listener", hint)
    return found


def _modes(process: Process) -> dict[int, int]:
    if process.thread_views:
        return {
            tid: process.thread_views[tid].seccomp_mode
            for tid in process.tids
            if tid in process.thread_views
        }
    raw = read_statuses(process).raw
    return {tid: int(parse_fields(status).get(b"Seccomp", b"0")) for tid, status in raw.items()}


def _read_chain(tid: int) -> tuple[Filter, ...]:
    chain: list[Filter] = []
    while True:
        try:
            program = ptrace.get_seccomp_filter(tid, len(chain))
            flags = ptrace.get_seccomp_flags(tid, len(chain))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return tuple(chain)
            raise CaptureError(
                "seccomp filter cannot be read",
                where=f"tid {tid}",
                errno=error.errno,
                hint="snapshot as root (CAP_SYS_ADMIN), and not from under a filter of our own",
            ) from error
        chain.append(Filter(program, flags))


def has_user_notification(program: bytes) -> bool:
    """Tell whether a filter can answer "ask the listener"."""
    return any(
        code == BPF_RET_K and value & RET_ACTION_FULL == RET_USER_NOTIF
        for code, _, _, value in _INSTRUCTION.iter_unpack(program)
    )


def finish(raw: dict[int, tuple[Filter, ...]], process: Process) -> Iterable[Record]:
    """Make one record for each different filter, and one for each set of threads alike."""
    chains: dict[tuple[Filter, ...], list[int]] = {}
    for tid, chain in raw.items():
        chains.setdefault(chain, []).append(tid)
    refs: dict[Filter, int] = {}
    for each in (filter_ for chain in chains for filter_ in chain):
        if each not in refs:
            refs[each] = process.identities.ref("seccomp_filter", each)
            logs = bool(each.flags & FILTER_FLAG_LOG)
            yield SeccompFilterRecord(ref=refs[each], program=each.program, logs=logs)
    for chain, tids in chains.items():
        mode = SECCOMP_MODE_FILTER if chain else SECCOMP_MODE_STRICT
        filters = [refs[each] for each in chain]
        yield SeccompRecord(tgid=process.tgid, tids=tids, mode=mode, filters=filters)


class SuspendSeccomp:
    """Let calls of stopped threads pass their filters while we trace them."""

    def __init__(self, tids: Sequence[int]) -> None:
        self.tids = tuple(tids)

    def perform(self, restorer: Restorer) -> None:
        """Set the ptrace option, beside those that a restored task has anyway."""
        del restorer
        from ckpt.host.seed import OPTIONS

        for tid in self.tids:
            ptrace.set_options(tid, int(OPTIONS | ptrace.Option.SUSPEND_SECCOMP))

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"suspend seccomp of {len(self.tids)} threads"


def plan(records: Records, build: Builder) -> None:
    """Install filters on each thread, those that all threads share by one call."""
    filters = {
        record.ref: _program_blob(record, build) for record in records.of(SeccompFilterRecord)
    }
    for process in records.processes:
        mine = [record for record in records.of(SeccompRecord) if record.tgid == process.tgid]
        if mine and _check(mine, filters, build):
            _plan_process(process, mine, filters, build)


def _program_blob(record: SeccompFilterRecord, build: Builder) -> tuple[Blob, int]:
    """Return struct sock_fprog of a filter, and the flags that it is installed with."""
    count, rest = divmod(len(record.program), _INSTRUCTION.size)
    if rest or not 0 < count <= MAX_INSTRUCTIONS:
        build.refuse(f"seccomp filter {record.ref}", f"{len(record.program)} bytes is no program")
    # Mitigations are restored from their own record: the filter must not add its own.
    flags = FILTER_FLAG_SPEC_ALLOW | (FILTER_FLAG_LOG if record.logs else 0)
    fprog = struct.pack("<HxxxxxxQ", count & 0xFFFF, 0)
    return Blob(fprog, ((8, Blob(record.program)),)), flags


def _check(
    mine: Sequence[SeccompRecord], filters: dict[int, tuple[Blob, int]], build: Builder
) -> bool:
    where = f"tid {mine[0].tids[0]}"
    before = len(build.findings)
    if not build.host.has_capability(CAP_SYS_ADMIN) or build.host.inherited.seccomp_mode:
        hint = "restore as root, and not from under a filter"
        build.refuse(where, "seccomp cannot be restored without CAP_SYS_ADMIN", hint)
    if any(ref not in filters for record in mine for ref in record.filters):
        build.refuse(where, "uses a seccomp filter that the image does not have")
    return len(build.findings) == before


def _plan_process(
    process: ProcessRecord,
    mine: Sequence[SeccompRecord],
    filters: dict[int, tuple[Blob, int]],
    build: Builder,
) -> None:
    shared = _common_prefix(process, mine)
    existing = tuple(born(tid) for tid in process.tids)
    ordered = (threads_exist(process.tgid), memory_filled(process.tgid))
    suspended = Token("seccomp_suspended", process.tgid)
    synchronised = Token("seccomp_shared", process.tgid)
    build.host_step(
        SuspendSeccomp(process.tids),
        "seccomp suspended while traced",
        needs=existing,
        after=ordered,
        provides=(suspended,),
    )
    if shared:
        sync = FILTER_FLAG_TSYNC if len(process.tids) > 1 else 0
        build.tape(
            process.tids[0],
            [_install(filters[ref], sync) for ref in shared],
            "seccomp filters of all threads",
            needs=(suspended,),
            provides=(synchronised, *(seccomp_set(tid) for tid in process.tids)),
        )
    for record in mine:
        _plan_own(record, len(shared), filters, (suspended, synchronised), build)


def _plan_own(
    record: SeccompRecord,
    skip: int,
    filters: dict[int, tuple[Blob, int]],
    tokens: tuple[Token, Token],
    build: Builder,
) -> None:
    """Plan what the threads of `record` have beyond the first `skip` filters."""
    calls = [_install(filters[ref], 0) for ref in record.filters[skip:]]
    if record.mode == SECCOMP_MODE_STRICT:
        calls.append(Call(SYS_SECCOMP, (SECCOMP_SET_MODE_STRICT, 0, 0)))
    suspended, synchronised = tokens
    for tid in record.tids if calls else ():
        build.tape(
            tid,
            calls,
            "seccomp",
            needs=(suspended,),
            after=(synchronised,),
            provides=(seccomp_set(tid),),
        )


def _common_prefix(process: ProcessRecord, mine: Sequence[SeccompRecord]) -> list[int]:
    """Return the filters with which the chain of every thread of the process begins."""
    if {tid for record in mine for tid in record.tids} != set(process.tids):
        return []
    prefix = []
    for refs in zip(*(record.filters for record in mine), strict=False):
        if len(set(refs)) > 1:
            break
        prefix.append(refs[0])
    return prefix


def _install(program: tuple[Blob, int], extra: int) -> Call:
    blob, flags = program
    return Call(SYS_SECCOMP, (SECCOMP_SET_MODE_FILTER, flags | extra, blob))

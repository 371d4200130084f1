"""Restartable sequences: each thread's registration, and threads stopped inside a critical section.

What a preemption does (kernel/rseq.c, 6.18, `rseq_ip_fixup`): if the instruction pointer lies in
the section that the area's `rseq_cs` points to, rseq_cs is cleared and the thread goes on at the
section's abort address; if it lies outside, rseq_cs is just cleared. A thread that is left running
gets that from the kernel, since the stop scheduled it away. A restored thread gets the abort
address as its rip, loaded over the one that it was stopped with, and rseq(2) itself clears rseq_cs
when it registers. The kernel then writes the CPU's numbers into the area, so this comes after the
memory.

ptrace is the source (PTRACE_GET_RSEQ_CONFIGURATION), BPF where the kernel lacks that request.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ckpt.arch.x86_64.regs import REGS_SIZE, encode_regs, parse_regs
from ckpt.host import ptrace
from ckpt.objects.base import Record
from ckpt.objects.steps import Call, Token, born, memory_filled, thread_done

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, Records, Restorer

SYS_RSEQ: Final = 334

RSEQ_CONFIGURATION: Final = struct.Struct("<QIIII")
"""struct ptrace_rseq_configuration: rseq_abi_pointer, rseq_abi_size, signature, flags, pad
(include/uapi/linux/ptrace.h, 6.18)."""

RSEQ_CS: Final = struct.Struct("<IIQQQ")
"""struct rseq_cs: version, flags, start_ip, post_commit_offset, abort_ip
(include/uapi/linux/rseq.h, 6.18)."""

RSEQ_CS_OFFSET: Final = 8
"""offsetof(struct rseq, rseq_cs)"""
_SIGNATURE_BYTES: Final = 4


class RseqRecord(Record, frozen=True, kw_only=True, tag="rseq"):
    """One thread's registration with rseq(2)."""

    tid: int
    address: int
    length: int
    signature: int
    abort_ip: int = 0
    """Where the thread goes on: it was stopped inside a critical section. 0: where it was."""


RECORDS = (RseqRecord,)


class Raw(NamedTuple):
    """What the frozen time read; a thread without a registration is not in it."""

    configurations: dict[int, tuple[int, int, int]]
    """tid to address, length, signature."""
    abort_ips: dict[int, int]
    unseen: tuple[int, ...]
    """Threads for which the kernel has no such ptrace request."""


def capture(process: Process) -> Raw:
    """Ask ptrace for each registration, and look for threads inside a critical section."""
    found: dict[int, tuple[int, int, int]] = {}
    unseen: list[int] = []
    for tid in process.tids:
        try:
            content = ptrace.get_record(
                tid, ptrace.Request.GET_RSEQ_CONFIGURATION, RSEQ_CONFIGURATION.size
            )
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EINVAL):
                raise
            unseen.append(tid)
            continue
        address, length, signature, _, _ = RSEQ_CONFIGURATION.unpack(content)
        if address:
            found[tid] = (address, length, signature)
    return Raw(found, _find_aborts(process, found), tuple(unseen))


def _find_aborts(process: Process, found: dict[int, tuple[int, int, int]]) -> dict[int, int]:
    if not found:
        return {}
    aborts: dict[int, int] = {}
    mem_fd = os.open(process.path("mem"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        for tid, (address, _, signature) in found.items():
            stop = process.stops.get(tid)
            if stop is not None:
                abort_ip = find_abort_ip(mem_fd, address, signature, stop.regs.rip)
                if abort_ip:
                    aborts[tid] = abort_ip
    finally:
        os.close(mem_fd)
    return aborts


def find_abort_ip(mem_fd: int, address: int, signature: int, ip: int) -> int:
    """Return where a preemption would send a thread at `ip`; 0: nowhere else.

    `mem_fd` is the target's /proc/PID/mem, `address` its rseq area. A descriptor that cannot be
    read or is not valid gives 0: the kernel would kill the thread; restored, it just goes on.
    """
    pointer = int.from_bytes(_peek(mem_fd, address + RSEQ_CS_OFFSET, 8), "little")
    if not pointer:
        return 0
    descriptor = _peek(mem_fd, pointer, RSEQ_CS.size)
    if len(descriptor) < RSEQ_CS.size:
        return 0
    abort_ip = parse_abort_ip(descriptor, ip)
    if not abort_ip:
        return 0
    stored = _peek(mem_fd, abort_ip - _SIGNATURE_BYTES, _SIGNATURE_BYTES)
    return abort_ip if stored == signature.to_bytes(4, "little") else 0


def parse_abort_ip(descriptor: bytes, ip: int) -> int:
    """Return the abort address of a struct rseq_cs if `ip` lies inside its section, else 0.

    The checks are those of `rseq_get_rseq_cs` and `in_rseq_cs`, in unsigned arithmetic.
    """
    version, _, start_ip, length, abort_ip = RSEQ_CS.unpack(descriptor)
    if version or not start_ip <= ip < start_ip + length:
        return 0
    return 0 if start_ip <= abort_ip < start_ip + length else abort_ip


def _peek(mem_fd: int, address: int, size_bytes: int) -> bytes:
    """Read the target's memory; what is not mapped reads as nothing."""
    try:
        return os.pread(mem_fd, size_bytes, address)
    except (OSError, OverflowError):
        return b""


def finish(raw: Raw, process: Process) -> Iterable[RseqRecord]:
    """Make a record for each registered thread."""
    found = dict(raw.configurations)
    for tid in raw.unseen:
        view = process.thread_views.get(tid)
        if view is None or view.rseq is None:
            process.warn(f"tid {tid}", "rseq registration was not seen: it is lost in a restore")
        elif view.rseq.address:
            found[tid] = (view.rseq.address, view.rseq.length, view.rseq.signature)
    for tid, (address, length, signature) in found.items():
        yield RseqRecord(
            tid=tid,
            address=address,
            length=length,
            signature=signature,
            abort_ip=raw.abort_ips.get(tid, 0),
        )


def plan(records: Records, build: Builder) -> None:
    """Register each thread again, by the thread itself."""
    process_of = {tid: process.tgid for process in records.processes for tid in process.tids}
    for record in records.of(RseqRecord):
        args = (record.address, record.length, 0, record.signature)
        build.tape(
            record.tid,
            (Call(SYS_RSEQ, args),),
            "rseq registration",
            needs=(born(record.tid), memory_filled(process_of[record.tid])),
        )
        if record.abort_ip:
            build.ptrace(
                record.tid,
                Abort(record.tid, record.abort_ip),
                "was inside a restartable sequence, which a preemption aborts",
                needs=(born(record.tid),),
                after=(thread_done(record.tid), Token("parked", record.tid)),
            )


class Abort:
    """Let a parked thread go on at the abort address of its critical section."""

    def __init__(self, tid: int, abort_ip: int) -> None:
        self.tid = tid
        self.abort_ip = abort_ip

    def perform(self, restorer: Restorer) -> None:  # noqa: ARG002
        """Load rip alone; the thread is outside of any system call."""
        regs = parse_regs(ptrace.get_regset(self.tid, ptrace.NT_PRSTATUS, REGS_SIZE))
        aborted = msgspec.structs.replace(regs, rip=self.abort_ip)
        ptrace.set_regset(self.tid, ptrace.NT_PRSTATUS, encode_regs(aborted))

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"go on at {self.abort_ip:#x}"

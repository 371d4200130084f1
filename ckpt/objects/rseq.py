"""Restartable sequences: each thread's registration, and threads stopped inside a critical section.

What a preemption does (kernel/rseq.c, 6.18, `rseq_ip_fixup`): if the instruction pointer lies in
the section that the area's `rseq_cs` points to, rseq_cs is cleared and the thread goes on at the
section's abort address; if it lies outside, rseq_cs is just cleared. A thread that is left running
gets that from the kernel, since the stop scheduled it away. A restored thread gets the abort
address as its rip (`Builder.final_rips`), and rseq(2) itself clears rseq_cs when it registers. The
kernel then writes the CPU's numbers into the area, so this comes after the memory.

BPF is the source, and PTRACE_GET_RSEQ_CONFIGURATION where there is no BPF.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from ckpt.arch.x86_64 import rseq as arch
from ckpt.host import ptrace
from ckpt.objects.base import Record
from ckpt.objects.steps import Call, born, memory_filled

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, Records

SYS_RSEQ: Final = 334

RSEQ_CONFIGURATION: Final = struct.Struct("<QIIII")
"""struct ptrace_rseq_configuration: rseq_abi_pointer, rseq_abi_size, signature, flags, pad
(include/uapi/linux/ptrace.h, 6.18)."""

_NO_CALL: Final = (1 << 64) - 1


class RseqRecord(Record, frozen=True, kw_only=True, tag="rseq"):
    """One thread's registration with rseq(2)."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset(("abort_ip",))

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
    """Threads that neither BPF nor ptrace (before Linux 5.13) tells about."""


def capture(process: Process) -> Raw:
    """Look for registrations, and for threads inside a critical section."""
    found: dict[int, tuple[int, int, int]] = {}
    unseen: list[int] = []
    for tid in process.tids:
        view = process.thread_views.get(tid)
        if view is not None and view.rseq is not None:
            if view.rseq.address:
                found[tid] = (view.rseq.address, view.rseq.length, view.rseq.signature)
            continue
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
            # No system call is made inside a critical section: that thread need not be looked at.
            if stop is not None and stop.regs.orig_rax == _NO_CALL:
                abort_ip = read_abort_ip(mem_fd, address, signature, stop.regs.rip)
                if abort_ip:
                    aborts[tid] = abort_ip
    finally:
        os.close(mem_fd)
    return aborts


def read_abort_ip(mem_fd: int, address: int, signature: int, ip: int) -> int:
    """Return where a preemption would send a thread at `ip`; 0: nowhere else.

    `mem_fd` is the target's /proc/PID/mem, `address` its rseq area. A section that cannot be read
    or is not sound gives 0: the kernel would kill the thread; restored, it just goes on.
    """
    pointer = int.from_bytes(_peek(mem_fd, address + arch.RSEQ_CS_FIELD_OFFSET, 8), "little")
    content = _peek(mem_fd, pointer, arch.RSEQ_CS_SIZE) if pointer else b""
    if len(content) < arch.RSEQ_CS_SIZE:
        return 0
    section = arch.parse_rseq_cs(content)
    abort_ip = arch.find_abort_ip(ip, section)
    if abort_ip is None:
        return 0
    before = _peek(mem_fd, abort_ip - arch.SIGNATURE_SIZE, arch.SIGNATURE_SIZE)
    return 0 if arch.check_rseq_cs(section, signature, before) else abort_ip


def _peek(mem_fd: int, address: int, size_bytes: int) -> bytes:
    """Read the target's memory; what is not mapped reads as nothing."""
    try:
        return os.pread(mem_fd, size_bytes, address)
    except (OSError, OverflowError):
        return b""


def finish(raw: Raw, process: Process) -> Iterable[RseqRecord]:
    """Make a record for each registered thread."""
    for tid in raw.unseen:
        process.warn(f"tid {tid}", "rseq registration was not seen: it is lost in a restore")
    for tid, (address, length, signature) in raw.configurations.items():
        yield RseqRecord(
            tid=tid,
            address=address,
            length=length,
            signature=signature,
            abort_ip=raw.abort_ips.get(tid, 0),
        )


def volatile_memory(records: Records) -> Iterable[tuple[int, int]]:
    """Yield (address, length) of the areas that the kernel writes by itself."""
    for record in records.of(RseqRecord):
        yield record.address, record.length


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
            build.final_rips[record.tid] = record.abort_ip

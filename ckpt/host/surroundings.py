"""Where threads stand, and what is around a process: plain values for a first look at a live one.

Filled by the BPF iterators `stack` and `peers` (`ckpt.host.bpf`). As in `kernel_view` no kernel
address leaves this layer: functions are names, objects are `KernelId`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec

from ckpt.arch.x86_64.regs import X86Regs
from ckpt.host import bpf_records as records
from ckpt.host.kernel_view import PF_KTHREAD, TS_COMPAT, KernelId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ckpt.host.kallsyms import Symbols

_BESIDE_PT_REGS: Final[tuple[int, ...]] = (0,) * 6
"""fs_base, gs_base and segment registers of user_regs_struct, which pt_regs does not have."""
_RWSEM_CONTENDED: Final = 0x3
"""RWSEM_WRITER_LOCKED | RWSEM_FLAG_WAITERS, kernel/locking/rwsem.c (6.18)."""
_WORDS: Final = struct.Struct(f"<{records.STACK_MAX_FRAMES}Q")


class ThreadPlace(msgspec.Struct, frozen=True):
    """Where one thread stands: in user code by its registers, in the kernel by its stack."""

    tid: int
    cpu: int
    """Where it runs, or ran last."""
    on_cpu: bool
    """It runs at this moment; then registers are those of its last entry, and there is no stack."""
    state: int
    exit_state: int
    is_i386_call: bool
    """The system call, if it is in one, was made by int 0x80 or 32-bit code."""
    is_mmap_contended: bool
    """Somebody holds the lock of its mm for writing, or waits for it: readers may have to wait."""
    mmap_lock_owner: int
    """The tid of that writer; 0: none, or not to be known."""
    observed_ns: int
    """CLOCK_MONOTONIC of the host."""
    off_cpu_ns: int | None
    """For how long it has been off its CPU, by the scheduler's clock; None: not known."""
    is_off_cpu_exact: bool
    """False: by `se.exec_start`, whose clock stands still while the host takes the CPU."""
    regs: X86Regs
    """pt_regs of the entry into the kernel; fs_base, gs_base and data segments are 0."""
    has_all_regs: bool
    """False: only the call, its arguments, rip and rsp are known (without BPF)."""
    kernel_stack: tuple[str, ...]
    """`function+0x1f`, innermost first."""


class PeerTask(msgspec.Struct, frozen=True):
    """One task of the machine, thread or process, as far as others may have to do with it.

    Numbers are those of the observer's pid namespace.
    """

    tid: int
    tgid: int
    parent_tgid: int
    tracer_tid: int
    comm: str
    state: int
    exit_state: int
    is_kernel_thread: bool
    on_cpu: bool
    mm: KernelId
    files: KernelId
    fs: KernelId
    sighand: KernelId
    call_nr: int
    """Number of the system call that it is in; -1: in none. Stale while `on_cpu`."""
    is_i386_call: bool
    call_args: tuple[int, ...]


def decode_places(buffer: bytes, symbols: Symbols, yielded_ns: int) -> Iterator[ThreadPlace]:
    """Decode the records of the iterator `stack`.

    `yielded_ns` (CLOCK_MONOTONIC) is when the reading task last brought its own scheduler figures
    up to date (sched_yield): its clock read as of then.
    """
    for at in range(0, len(buffer), records.STACK_RECORD.size):
        head = records.StackRecord(*records.STACK_HEAD.unpack_from(buffer, at))
        at += records.STACK_HEAD.size
        words = struct.unpack_from(f"<{records.STACK_USER_WORDS}Q", buffer, at)
        at += 8 * records.STACK_USER_WORDS
        frames = _WORDS.unpack_from(buffer, at)[: head.frame_count]
        off_cpu_ns, is_exact = _off_cpu(head, yielded_ns)
        yield ThreadPlace(
            head.tid,
            head.cpu,
            bool(head.on_cpu),
            head.state,
            head.exit_state,
            bool(head.ti_status & TS_COMPAT),
            bool(head.mmap_lock_count & _RWSEM_CONTENDED),
            head.mmap_lock_owner,
            head.observed_ns,
            off_cpu_ns,
            is_exact,
            X86Regs(*words, *_BESIDE_PT_REGS),
            True,
            tuple(name for frame in frames if (name := symbols.place_at(frame))),
        )


def _off_cpu(head: records.StackRecord, yielded_ns: int) -> tuple[int | None, bool]:
    """Return for how long a task has been off its CPU.

    When it was put there last (`sched_info.last_arrival`, on the run queue's clock) plus what it
    then ran is when it left; the reader's own figures say what that clock reads now.
    """
    if head.on_cpu:
        return None, True
    since_yield_ns = head.observed_ns - yielded_ns
    if head.last_arrival_ns and head.reader_arrival_ns:
        now_ns = head.reader_arrival_ns + head.reader_run_ns + since_yield_ns
        return max(now_ns - head.last_arrival_ns - head.last_run_ns, 0), True
    if not head.exec_start_ns:
        return None, False
    return max(head.reader_exec_start_ns + since_yield_ns - head.exec_start_ns, 0), False


def decode_peers(buffer: bytes, identify: Callable[[int], KernelId]) -> Iterator[PeerTask]:
    """Decode the records of the iterator `peers`."""
    for fields in records.PEERS_RECORD.iter_unpack(buffer):
        record = records.PeersRecord(*fields)
        is_i386 = bool(record.ti_status & TS_COMPAT)
        is_kernel_thread = bool(record.flags & PF_KTHREAD)
        nr = -1 if is_kernel_thread else _signed(record.orig_ax)
        yield PeerTask(
            record.tid,
            record.tgid,
            record.parent_tgid,
            record.tracer_tid,
            record.comm.split(b"\0", 1)[0].decode("utf-8", "surrogateescape"),
            record.state,
            record.exit_state,
            is_kernel_thread,
            bool(record.on_cpu),
            identify(record.mm),
            identify(record.files),
            identify(record.fs),
            identify(record.sighand),
            nr if nr >= 0 else -1,
            is_i386,
            _arguments(record, is_i386=is_i386),
        )


def _arguments(record: records.PeersRecord, *, is_i386: bool) -> tuple[int, ...]:
    if is_i386:
        six = (record.bx, record.cx, record.dx, record.si, record.di, record.bp)
        return tuple(value & 0xFFFF_FFFF for value in six)
    return (record.di, record.si, record.dx, record.r10, record.r8, record.r9)


def _signed(value: int) -> int:
    """Return a system call's number as the kernel sees it: 32 bits, signed."""
    return (value & 0xFFFF_FFFF ^ 0x8000_0000) - 0x8000_0000

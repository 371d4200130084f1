"""Threads: their ids, names, registers, and how the call that each was in goes on.

Owns the skeleton of a process (which threads there are), their creation, and the very end of a
restore: every thread parked in the trap with its own registers, the tape unmapped.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec

from ckpt.arch.x86_64.regs import X86Regs
from ckpt.objects import interrupted
from ckpt.objects.base import ProcessRecord, Record
from ckpt.objects.interrupted import Interrupted
from ckpt.objects.steps import (
    Blob,
    Call,
    Token,
    born,
    c_string,
    fds_placed,
    last_signals_queued,
    memory_filled,
    mm_fields_set,
    restart_armed,
    signals_queued,
    thread_done,
    threads_exist,
    timens_entered,
    timers_armed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckpt.objects.base import Builder, Process, Records, Restorer

SYS_CLONE3, SYS_PRCTL, SYS_SET_TID_ADDRESS, SYS_EXIT = 435, 157, 218, 60
PR_SET_NAME: Final = 15

# include/uapi/linux/sched.h
_CLONE_THREAD_FLAGS: Final = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000
"""CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM"""
_CLONE_ARGS: Final = struct.Struct("<11Q")


class ThreadRecord(Record, tag="thread", frozen=True):
    """One living thread."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"interrupted"})

    tid: int
    comm: bytes
    regs: X86Regs
    clear_child_tid: int | None
    interrupted: Interrupted


RECORDS = (ProcessRecord, ThreadRecord)


class _Raw(NamedTuple):
    comms: dict[int, bytes]
    codes: dict[int, bytes]


def capture(process: Process) -> _Raw:
    """Read names; the registers were read as each thread stopped."""
    comms, codes = {}, {}
    with open(process.path("mem"), "rb", buffering=0) as memory:
        for tid, stop in process.stops.items():
            comms[tid] = process.read("comm", tid)[:-1]
            codes[tid] = interrupted.read_code(memory.fileno(), stop.regs.rip)
    return _Raw(comms, codes)


def finish(raw: _Raw, process: Process) -> Iterator[Record]:
    """Make the process's record, then one a thread."""
    ref = process.identities.ref
    yield ProcessRecord(
        tgid=process.tgid,
        tids=list(process.stops),
        leader_alive=process.leader_alive,
        stopped_by=process.stopped_by,
        mm=ref("mm", process.tgid),
        files=ref("files", process.tgid),
        fs=ref("fs", process.tgid),
        sighand=ref("sighand", process.tgid),
    )
    for tid, stop in process.stops.items():
        view = process.thread_views.get(tid)
        yield ThreadRecord(
            tid=tid,
            comm=raw.comms[tid],
            regs=stop.regs,
            clear_child_tid=view.clear_child_tid if view else None,
            interrupted=interrupted.describe(process, stop, raw.codes[tid]),
        )


def comparable(record: Record) -> Record:
    """A call that is made again has been rewound already when the process is compared."""
    if isinstance(record, ThreadRecord):
        regs = interrupted.final_regs(record.interrupted, record.regs)
        return msgspec.structs.replace(record, regs=regs)
    return record


def plan(records: Records, build: Builder) -> None:
    """Create threads, name them, re-arm their calls, park them, unmap the tape."""
    threads = {record.tid: record for record in records.of(ThreadRecord)}
    for process in records.processes:
        _plan_creation(process, build)
        for tid in process.tids:
            _plan_thread(process, threads[tid], build)
        _plan_end(process, build)


def _plan_creation(process: ProcessRecord, build: Builder) -> None:
    others = [tid for tid in process.tids if tid != process.tgid]
    build.tape(
        process.tgid,
        [_clone_call(tid) for tid in others],
        "create threads",
        needs=(memory_filled(process.tgid),),
        after=(timens_entered(process.tgid), mm_fields_set(process.tgid)),
        provides=(threads_exist(process.tgid), *(born(tid) for tid in others)),
    )


def _clone_call(tid: int) -> Call:
    tids = Blob(struct.pack("<i4x", tid))
    # set_tid is the ninth field (offset 64), set_tid_size the tenth.
    args = _CLONE_ARGS.pack(_CLONE_THREAD_FLAGS, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)
    return Call(SYS_CLONE3, (Blob(args, ((64, tids),)), _CLONE_ARGS.size), tid)


def _plan_thread(process: ProcessRecord, record: ThreadRecord, build: Builder) -> None:
    tid = record.tid
    calls = [Call(SYS_PRCTL, (PR_SET_NAME, c_string(record.comm)))]
    if record.clear_child_tid is not None:
        calls.append(Call(SYS_SET_TID_ADDRESS, (record.clear_child_tid,), tid))
    build.tape(tid, calls, "name the thread", needs=(born(tid), threads_exist(process.tgid)))
    build.ptrace(
        tid,
        interrupted.Rearm(tid, record.interrupted, record.regs),
        f"{record.interrupted.kind}: {record.interrupted.reason}",
        needs=(born(tid), memory_filled(process.tgid)),
        after=(fds_placed(process.files), timens_entered(process.tgid)),
        provides=(restart_armed(tid),),
    )
    build.ptrace(
        tid,
        Park(
            tid,
            interrupted.final_regs(record.interrupted, record.regs),
            build.final_rips,
        ),
        "load registers",
        needs=(thread_done(tid), restart_armed(tid)),
        after=(
            signals_queued(tid),
            last_signals_queued(tid),
            timers_armed(process.tgid),
            *([Token("tape-gone", process.tgid)] if tid == _unmapper(process) else []),
        ),
        provides=(Token("parked", tid),),
    )


def _unmapper(process: ProcessRecord) -> int:
    """Return the thread that unmaps the tape: the last one to be parked."""
    return process.tids[0]


def _plan_end(process: ProcessRecord, build: Builder) -> None:
    last = _unmapper(process)
    build.tape(
        process.tgid,
        [Call(3, (build.socket_fd,))],
        "close the descriptor socket",
        after=(
            fds_placed(process.files),
            timens_entered(process.tgid),
            mm_fields_set(process.tgid),
            memory_filled(process.tgid),
        ),
        needs=(born(process.tgid),),
    )
    if not process.leader_alive:
        build.ptrace(
            process.tgid,
            EndLeader(process.tgid),
            "end the main thread",
            needs=(threads_exist(process.tgid), thread_done(process.tgid)),
            provides=(Token("parked", process.tgid),),
        )
    others = [tid for tid in (process.tgid, *process.tids) if tid != last]
    build.ptrace(
        last,
        UnmapTape(last),
        "unmap the tape",
        needs=(thread_done(last), *(Token("parked", tid) for tid in others)),
        after=(restart_armed(last), last_signals_queued(last)),
        provides=(Token("tape-gone", process.tgid),),
    )


class Park:
    """Load a thread's final registers, in the trap."""

    def __init__(self, tid: int, regs: X86Regs, final_rips: Mapping[int, int]) -> None:
        self.tid = tid
        self.regs = regs
        self._final_rips = final_rips

    def perform(self, restorer: Restorer) -> None:
        """The result of a re-armed call that had ended meanwhile replaces rax."""
        regs = msgspec.structs.replace(self.regs, rip=self._rip)
        restorer.park(self.tid, regs)

    @property
    def _rip(self) -> int:
        return self._final_rips.get(self.tid, self.regs.rip)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"load registers, rip {self._rip:#x}"


class UnmapTape:
    """Unmap the tape region by one stepped call, so that no instruction of it runs afterwards."""

    def __init__(self, tid: int) -> None:
        self.tid = tid

    def perform(self, restorer: Restorer) -> None:
        """Step munmap; the thread stays in the syscall-exit stop."""
        restorer.unmap_tape(self.tid)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return "munmap the tape"


class EndLeader:
    """Let the main thread exit while the others stay."""

    def __init__(self, tgid: int) -> None:
        self.tgid = tgid

    def perform(self, restorer: Restorer) -> None:
        """Play exit and wait until the thread is a zombie."""
        restorer.end_thread(self.tgid)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return "exit(0)"

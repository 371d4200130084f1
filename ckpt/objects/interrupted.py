"""The system call that a thread was in: what it was, its deadline, and how it goes on.

Owns the record of an interrupted call and the re-arming of a restart_block. The rules are those of
`ckpt.arch.x86_64.restart`; calls that are made again (`reissue`) are `ckpt.reissue`'s.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from ckpt.arch.x86_64 import rearm, restart
from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.timeouts import NO_TIMEOUT, Timeout, read_args
from ckpt.host.clocks import clocks_ahead
from ckpt.objects.base import Plain

if TYPE_CHECKING:
    from ckpt.arch.x86_64.regs import X86Regs
    from ckpt.host.kernel_view import ThreadView
    from ckpt.objects.base import Process, Restorer


class RearmFacts(Plain, kw_only=True, frozen=True):
    """A restart_block: the function by its symbol, its arguments, and the time that was left."""

    fn: str
    remaining_ns: int | None = None
    """At the freeze. None: it waits without limit."""
    deadline_ns: int | None = None
    """In CLOCK_REALTIME, for a futex wait on that clock: it means the same after any pause."""
    clockid: int = 0
    rmtp: int = 0
    rmtp_type: int = 0
    address: int = 0
    """uaddr of a futex, ufds of a poll."""
    count: int = 0
    """val of a futex, nfds of a poll."""
    bitset: int = 0


class Interrupted(Plain, kw_only=True, frozen=True):
    """How one thread's call goes on."""

    kind: restart.Kind
    name: str
    nr: int
    entry: CallEntry
    reason: str
    timeout: Timeout = NO_TIMEOUT
    remaining_ns: int | None = None
    """Until the deadline of a finite wait at the freeze; None: no limit, or not known."""
    rearm: RearmFacts | None = None


def read_code(memory_fd: int, rip: int) -> bytes:
    """Return the bytes before rip, as many as can be read (the page before may be missing)."""
    for size in (restart.CODE_SIZE, 2):
        try:
            return os.pread(memory_fd, size, rip - size)
        except (OSError, OverflowError):
            continue
    return b""


def describe(process: Process, stop: Any, code: bytes) -> Interrupted:
    """Name the strategy of one stopped thread, with the facts that it needs later."""
    view = process.thread_views.get(stop.tid)
    block = view.restart if view is not None else None
    strategy = restart.classify(
        stop.regs,
        code,
        restart_fn=block.fn if block is not None else None,
        handled_signal_pending=stop.handled_signal,
        ts_compat=_ts_compat(view),
    )
    facts = None
    if strategy.kind is restart.Kind.REARM and view is not None:
        facts = _rearm_facts(process, view, stop)
    return Interrupted(
        kind=strategy.kind,
        name=strategy.name,
        nr=strategy.nr,
        entry=strategy.entry,
        reason=strategy.reason,
        timeout=strategy.timeout,
        remaining_ns=remaining_ns(process, stop.tid),
        rearm=facts,
    )


_PAUSED_CLOCKS: Final = (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, 9)
"""Clocks that a time namespace keeps from showing the pause, CLOCK_BOOTTIME_ALARM among them."""


def _ts_compat(view: ThreadView | None) -> bool | None:
    if view is None or view.ti_status is None:
        return None
    return bool(view.ti_status & restart.TS_COMPAT)


def remaining_ns(process: Process, tid: int) -> int | None:
    """Return what was left of a thread's finite wait; None: no limit, or BPF did not see it."""
    deadline = process.wait_deadline_ns(tid)
    return None if deadline is None else max(deadline - process.frozen_ns, 0)


def _rearm_facts(process: Process, view: ThreadView, stop: Any) -> RearmFacts | None:
    block: Any = view.restart
    if block is None:
        return None
    now = process.frozen_ns
    match type(block).__name__:
        case "NanosleepRestart":
            clock = rearm.find_clock(block.fn, block.clockid)
            left = block.expires_ns - process.clock_ns(clock, now)
            return RearmFacts(
                fn=block.fn,
                remaining_ns=max(left, 0),
                clockid=block.clockid,
                rmtp=block.rmtp,
                rmtp_type=block.rmtp_type,
            )
        case "CpuSleepRestart":
            left = block.expires_ns - process.cpu_clock_ns(block.clockid, stop.tid)
            return RearmFacts(
                fn=block.fn,
                remaining_ns=max(left, 0),
                clockid=block.clockid,
                rmtp=block.rmtp,
                rmtp_type=block.rmtp_type,
            )
        case "FutexRestart":
            clock = 0 if block.flags & 0x20 else 1
            left_ns = (
                None
                if block.expires_ns is None
                else block.expires_ns - process.clock_ns(clock, now)
            )
            return RearmFacts(
                fn=block.fn,
                remaining_ns=left_ns,
                deadline_ns=block.expires_ns if clock == time.CLOCK_REALTIME else None,
                clockid=clock,
                address=block.uaddr,
                count=block.val,
                bitset=block.bitset,
            )
        case "PollRestart":
            left_ns = (
                None if block.expires_ns is None else block.expires_ns - process.clock_ns(1, now)
            )
            return RearmFacts(
                fn=block.fn, remaining_ns=left_ns, address=block.ufds, count=block.nfds
            )
    return None


def final_regs(call: Interrupted, regs: X86Regs) -> X86Regs:
    """Return the registers that a thread goes on with."""
    return restart.build_reissue_regs(regs) if call.kind is restart.Kind.REISSUE else regs


class Rearm:
    """Give a thread a real restart_block, when its call needs one."""

    def __init__(self, tid: int, call: Interrupted, regs: Any) -> None:
        self.tid = tid
        self.call = call
        self.regs = regs

    def perform(self, restorer: Restorer) -> None:
        """Enter the call with the time that is left and a stop pending."""
        if self.call.kind is not restart.Kind.REARM or self.call.rearm is None:
            return
        facts = self.call.rearm
        built = build_rearm(self.call, self.regs)
        time_ns = facts.remaining_ns or 0
        if built.clock in _PAUSED_CLOCKS:
            time_ns = max(time_ns + restorer.lag_ns(), 0)
        if built.absolute:
            time_ns = facts.deadline_ns or time_ns + _target_now_ns(built.clock, self.tid)
        restorer.rearm(self.tid, built, time_ns, facts.rmtp if facts.rmtp_type else 0)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        call = self.call
        if call.kind is not restart.Kind.REARM or call.rearm is None:
            return f"{call.name or 'no call'}: {call.kind}"
        left = call.rearm.remaining_ns
        shown = "no limit" if left is None else f"{left / 1e9:.3f} s left"
        return f"{call.name}: arm {call.rearm.fn}, {shown}"


def _target_now_ns(clock: int, tid: int) -> int:
    """Return what a monotonic clock shows in the time namespace of a task."""
    return time.clock_gettime_ns(clock) + clocks_ahead(tid)[0]


def build_rearm(call: Interrupted, regs: Any) -> rearm.Rearm:
    """Build the call that arms the restart_block of `call`."""
    facts = call.rearm
    assert facts is not None
    if facts.fn == "do_restart_poll":
        return rearm.rearm_poll(
            facts.address, facts.count, has_timeout=facts.remaining_ns is not None, entry=call.entry
        )
    if facts.fn == "futex_wait_restart":
        op = read_args(regs, call.entry)[1]
        return rearm.rearm_futex(facts.address, facts.count, facts.bitset, op, call.entry)
    return rearm.rearm_nanosleep(facts.fn, facts.clockid, facts.rmtp, facts.rmtp_type, call.entry)

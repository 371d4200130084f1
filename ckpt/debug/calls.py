"""Each thread's interrupted call: what it was, how it goes on and why, and where it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt.arch.x86_64 import restart
from ckpt.arch.x86_64.decode import CALL_SIZE
from ckpt.debug.text import escape, escape_bytes
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.symbols import AddressSpace
    from ckpt.objects.base import Records


class ThreadCall(NamedTuple):
    """One thread, for people; every text is safe to print."""

    tid: int
    comm: str
    call: str
    strategy: str
    reason: str
    remaining_s: float | None
    """What was left of a finite wait."""
    instruction: str
    """The call instruction as capstone reads it, or why there is none."""
    location: str
    """Where rip stands."""

    def line(self) -> str:
        """Return one line."""
        left = "" if self.remaining_s is None else f", {self.remaining_s:.3f} s left"
        call = self.call or "no call"
        return f"thread {self.tid} ({self.comm}): {call}: {self.strategy}{left}: {self.reason}"

    def plain(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return self._asdict()


def describe_calls(records: Records, space: AddressSpace) -> Iterator[ThreadCall]:
    """Describe the call of every thread of an image."""
    for record in records.of(ThreadRecord):
        yield describe_thread(record, space)


def describe_thread(record: ThreadRecord, space: AddressSpace) -> ThreadCall:
    """Describe one thread's call; the instruction is read from the image or the mapped file."""
    call, rip = record.interrupted, record.regs.rip
    code = (
        space.read(rip - restart.CODE_SIZE, restart.CODE_SIZE) if rip > restart.CODE_SIZE else b""
    )
    if len(code) < restart.CODE_SIZE:
        code = space.read(rip - CALL_SIZE, CALL_SIZE) if rip > 1 else b""
    strategy = restart.Strategy(call.kind, call.name, call.nr, call.entry, call.reason)
    remaining_ns = call.rearm.remaining_ns if call.rearm is not None else call.remaining_ns
    return ThreadCall(
        record.tid,
        escape_bytes(record.comm),
        escape(call.name),
        str(call.kind),
        escape(call.reason),
        None if remaining_ns is None else remaining_ns / 1e9,
        escape(restart.confirm(strategy, record.regs, code)),
        space.locate(rip),
    )

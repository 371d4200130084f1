"""Syscall user dispatch of each thread: calls from outside one range of code raise SIGSYS.

Set from outside, last of all: on a tape the next call would already be refused.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, ClassVar, Final

from ckpt.host import ptrace
from ckpt.host.facts import U64
from ckpt.objects.base import Record
from ckpt.objects.steps import Token, born, creds_set, restart_armed, signals_queued, thread_done

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, Records, Restorer

CONFIG: Final = struct.Struct("<QQQQ")
"""struct ptrace_syscall_user_dispatch_config (32 bytes), `include/uapi/linux/ptrace.h`, 6.18."""
PR_SYS_DISPATCH_OFF: Final = 0


class DispatchRecord(Record, frozen=True, tag="dispatch"):
    """The configuration of one thread; nothing is recorded for a thread that has it off."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    tid: int
    mode: U64
    selector: U64
    """Address of the byte in the program's memory that switches it on and off."""
    offset: U64
    length: U64


RECORDS = (DispatchRecord,)


def capture(process: Process) -> dict[int, bytes]:
    """Ask about each thread that may have it."""
    found = {}
    for tid in process.tids:
        view = process.thread_views.get(tid)
        if view is not None and view.has_syscall_user_dispatch is False:
            continue
        config = read_config(tid)
        if config is None:
            return {}
        if CONFIG.unpack(config)[0] != PR_SYS_DISPATCH_OFF:
            found[tid] = config
    return found


def read_config(tid: int) -> bytes | None:
    """Return the configuration of a stopped thread; None where the kernel has no such request."""
    try:
        request = ptrace.Request.GET_SYSCALL_USER_DISPATCH_CONFIG
        return ptrace.get_record(tid, request, CONFIG.size)
    except OSError as error:
        if error.errno == errno.EIO:
            return None
        raise


def finish(raw: dict[int, bytes], process: Process) -> Iterable[DispatchRecord]:
    """Make the records."""
    del process
    for tid, config in raw.items():
        mode, selector, offset, length = CONFIG.unpack(config)
        yield DispatchRecord(tid=tid, mode=mode, selector=selector, offset=offset, length=length)


class SetDispatch:
    """Switch syscall user dispatch on in a stopped thread."""

    def __init__(self, record: DispatchRecord) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Make the ptrace request."""
        del restorer
        wanted = self.record
        config = CONFIG.pack(wanted.mode, wanted.selector, wanted.offset, wanted.length)
        request = ptrace.Request.SET_SYSCALL_USER_DISPATCH_CONFIG
        ptrace.set_record(wanted.tid, request, config)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        start, end = self.record.offset, self.record.offset + self.record.length
        return f"syscall user dispatch, free in {start:#x}-{end:#x}"


def plan(records: Records, build: Builder) -> None:
    """Set each configuration when the thread makes no more calls for us."""
    for record in records.of(DispatchRecord):
        tid = record.tid
        build.ptrace(
            tid,
            SetDispatch(record),
            "syscall user dispatch",
            needs=(born(tid),),
            after=(
                thread_done(tid),
                creds_set(tid),
                restart_armed(tid),
                signals_queued(tid),
                Token("parked", tid),
            ),
        )

"""Time namespaces: CLOCK_MONOTONIC and CLOCK_BOOTTIME of a restored process do not show the pause.

The process makes a time namespace, the restorer writes its offsets, and the process enters it: all
while it has one thread, because a process with more cannot enter (`kernel/time/namespace.c`, 6.18).
Offsets freeze with the first task that enters, so they are computed as late as possible.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from ckpt.host.clocks import parse_offsets
from ckpt.objects.base import Record
from ckpt.objects.passing import SendFds, close_call, lowest_free, receive_call
from ckpt.objects.steps import (
    Call,
    Token,
    born,
    memory_filled,
    memory_mapped,
    timens_entered,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, Records, Restorer

SYS_UNSHARE: Final = 272
SYS_SETNS: Final = 308
"""`arch/x86/entry/syscalls/syscall_64.tbl`, 6.18."""
CLONE_NEWTIME: Final = 0x80
"""`include/uapi/linux/sched.h`, 6.18."""
CAP_SYS_ADMIN: Final = 21
CAP_SYS_TIME: Final = 25
INITIAL_NAMESPACE_INODE: Final = 0xEFFF_FFFA
"""PROC_TIME_INIT_INO, `include/linux/proc_ns.h`, 6.18."""


Offset = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
"""Nanoseconds; the kernel takes no more."""


class TimensRecord(Record, frozen=True, tag="timens"):
    """The time namespace of one process.

    Volatile: a restored process lives in a namespace of its own whose offsets make up the pause.
    """

    VOLATILE: ClassVar[frozenset[str]] = frozenset(
        {"is_initial", "monotonic_offset_ns", "boottime_offset_ns"}
    )

    tgid: int
    is_initial: bool
    monotonic_offset_ns: Offset
    boottime_offset_ns: Offset


RECORDS = (TimensRecord,)


def capture(process: Process) -> tuple[bytes, int]:
    """Read the offsets and which namespace it is."""
    base = f"/proc/{process.living_tid}"
    try:
        with open(f"{base}/timens_offsets", "rb") as file:
            offsets = file.read()
        own = os.stat(f"{base}/ns/time").st_ino
        children = os.stat(f"{base}/ns/time_for_children").st_ino
    except FileNotFoundError:
        return b"", 0  # A kernel without time namespaces.
    if own != children:
        # The file shows the offsets that children will have; ours cannot be read then.
        process.refuse(
            f"process {process.tgid}",
            "has made a time namespace for its children",
            "snapshot it before it does so",
        )
    return offsets, own


def finish(raw: tuple[bytes, int], process: Process) -> Iterable[TimensRecord]:
    """Make the record."""
    offsets, own = raw
    values = parse_offsets(offsets)
    return (
        TimensRecord(
            tgid=process.tgid,
            is_initial=own in (0, INITIAL_NAMESPACE_INODE),
            monotonic_offset_ns=values.get("monotonic", 0),
            boottime_offset_ns=values.get("boottime", 0),
        ),
    )


def format_offsets(monotonic_ns: int, boottime_ns: int) -> str:
    """Return what is written to timens_offsets; nanoseconds are never negative there."""
    lines = []
    for name, offset in (("monotonic", monotonic_ns), ("boottime", boottime_ns)):
        seconds, nanoseconds = divmod(offset, 1_000_000_000)
        lines.append(f"{name} {seconds} {nanoseconds}\n")
    return "".join(lines)


class SetOffsets:
    """Write the offsets of the namespace that a task has made, and open it for the task."""

    KEY = "timens"

    def __init__(self, tid: int, clocks: tuple[int, int] | None, offsets: tuple[int, int]) -> None:
        self.tid = tid
        self.clocks = clocks
        """What CLOCK_MONOTONIC and CLOCK_BOOTTIME shall read from this moment on."""
        self.offsets = offsets
        """Written as they are when there are no `clocks`."""

    def perform(self, restorer: Restorer) -> None:
        """Compute, write, open."""
        offsets = self.offsets
        if self.clocks is not None:
            # Offsets cannot be changed later: the clocks start early, and are waited for.
            lead_ns = restorer.lead_ns()
            offsets = offsets_for((self.clocks[0] - lead_ns, self.clocks[1] - lead_ns))
            restorer.expect_clock(self.clocks[0])
        base = f"/proc/{self.tid}"
        fd = os.open(f"{base}/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, format_offsets(*offsets).encode())
        finally:
            os.close(fd)
        path = f"{base}/ns/time_for_children"
        restorer.fds[self.KEY] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        if self.clocks is None:
            return f"time offsets {self.offsets[0]} ns, {self.offsets[1]} ns"
        return f"clocks of tid {self.tid} go on at {self.clocks[0] / 1e9:.6f} s (monotonic)"


def offsets_for(clocks: tuple[int, int]) -> tuple[int, int]:
    """Return offsets that make the clocks read `clocks` now.

    Offsets count from the machine's own clocks, and we may live in a time namespace ourselves.
    """
    with open("/proc/self/timens_offsets", "rb") as file:
        ours = parse_offsets(file.read())
    monotonic = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - ours.get("monotonic", 0)
    boottime = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ours.get("boottime", 0)
    return clocks[0] - monotonic, clocks[1] - boottime


def plan(records: Records, build: Builder) -> None:
    """Put each process into a time namespace before it has threads."""
    for record in records.of(TimensRecord):
        if record.is_initial and not build.options.timens:
            continue
        if not _is_possible(record, build):
            continue
        _plan_entry(record, build)


def _is_possible(record: TimensRecord, build: Builder) -> bool:
    if not build.host.features.get("time_namespace", True):
        missing = "this kernel has no time namespaces"
    elif not all(map(build.host.has_capability, (CAP_SYS_ADMIN, CAP_SYS_TIME))):
        missing = "CAP_SYS_ADMIN and CAP_SYS_TIME are needed for it"
    else:
        return True
    what = f"CLOCK_MONOTONIC and CLOCK_BOOTTIME will jump: {missing}"
    build.warn(f"process {record.tgid}", what)
    return False


def _plan_entry(record: TimensRecord, build: Builder) -> None:
    tid, host = record.tgid, build.host
    clocks = (host.snapshot_monotonic_ns, host.snapshot_boottime_ns)
    offsets = (record.monotonic_offset_ns, record.boottime_offset_ns)
    made, opened, sent = (
        Token(name, tid) for name in ("timens_made", "timens_opened", "timens_sent")
    )
    build.tape(
        tid,
        (Call(SYS_UNSHARE, (CLONE_NEWTIME,)),),
        "a time namespace for its children",
        needs=(born(tid),),
        after=(memory_mapped(tid), memory_filled(tid)),
        provides=(made,),
    )
    action = SetOffsets(tid, clocks if build.options.timens else None, offsets)
    build.host_step(action, "clocks go on where they stood", needs=(made,), provides=(opened,))
    send = SendFds([SetOffsets.KEY])
    build.host_step(send, "the time namespace", needs=(opened,), provides=(sent,))
    fd = next(lowest_free({build.socket_fd}))
    calls = (
        receive_call(build.socket_fd, 1),
        Call(SYS_SETNS, (fd, CLONE_NEWTIME)),
        close_call(fd),
    )
    build.tape(
        tid,
        calls,
        "enter the time namespace",
        needs=(sent,),
        provides=(timens_entered(tid),),
    )

"""timerfd: clock, deadline, interval and the ticks that nobody has read yet.

The deadline is recorded in the target's own clock (its time namespace included). The task itself
arms the timer: absolutely, when its clocks go on where they were; with `--no-timens`, with the time
that remained. A relative timer of CLOCK_REALTIME does not follow changes of that clock, so it stays
relative; an absolute one keeps its date.
"""

from __future__ import annotations

import os
import struct
import time
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import msgspec

from ckpt.host.facts import U32, U64
from ckpt.host.syscalls import syscall
from ckpt.objects.file_kinds.common import (
    FileRecord,
    OpenFile,
    Opening,
    Placed,
    Table,
    find_leak,
    keep,
    set_status_flags,
)
from ckpt.objects.steps import Blob, Call, timens_entered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckpt.errors import Finding
    from ckpt.objects.base import Builder, Process, Records, Restorer

SYS_TIMERFD_CREATE, SYS_TIMERFD_SETTIME, SYS_TIMERFD_GETTIME, SYS_IOCTL = 283, 286, 287, 16
TFD_TIMER_ABSTIME: Final = 1
TFD_CLOEXEC: Final = 0o2000000
TFD_IOC_SET_TICKS: Final = 0x40085400
"""`include/uapi/linux/timerfd.h`, 6.18: _IOW('T', 0, __u64)."""
_ITIMERSPEC: Final = struct.Struct("<qqqq")
_FOPS: Final = "timerfd_fops"
NS: Final = 1_000_000_000
_REALTIME_CLOCKS: Final = frozenset({time.CLOCK_REALTIME, 8})
_CLOCK_NAMES: Final = {0: "realtime", 1: "monotonic", 7: "boottime", 8: "realtime", 9: "boottime"}
"""`include/uapi/linux/time.h`: 8 and 9 are the _ALARM clocks."""


Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class TimerfdFile(FileRecord, tag="file.timerfd", frozen=True, kw_only=True):
    """One struct timerfd_ctx."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset({"expires_ns", "ticks"})
    clockid: Annotated[int, msgspec.Meta(ge=0, le=9)]
    settime_flags: U32
    """TFD_TIMER_*; always 0 for clocks that cannot be set, where they change nothing later."""
    expires_ns: Nanoseconds
    """In `clockid` as the target reads it; 0: disarmed."""
    interval_ns: Nanoseconds
    ticks: U64


RECORDS = (TimerfdFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is a timerfd."""
    del table
    return file.is_anon(_FOPS, "[timerfd]")


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse those that another process has as well."""
    for file in files:
        yield from find_leak(file, table)


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[TimerfdFile]:
    """Record each timer's state."""
    offsets = read_clock_offsets(table.process)
    for file in files:
        lines = table.fdinfo(file)
        if _is_overdue(lines):
            _catch_up(file, table)
            lines = table.fdinfo(file)
        clockid = int(lines[b"clockid"][0])
        now_ns = time.clock_gettime_ns(_readable_clock(clockid))
        remaining_ns = parse_timespec(lines[b"it_value"][0])
        flags_word = int(lines[b"settime flags"][0], 8)
        ref, flags, owner = file.common()
        yield TimerfdFile(
            ref=ref,
            flags=flags,
            owner=owner,
            clockid=clockid,
            settime_flags=flags_word if clockid in _REALTIME_CLOCKS else 0,
            expires_ns=now_ns + offsets.get(clockid, 0) + remaining_ns if remaining_ns else 0,
            interval_ns=parse_timespec(lines[b"it_interval"][0]),
            ticks=int(lines[b"ticks"][0]),
        )


def _is_overdue(lines: Mapping[bytes, list[bytes]]) -> bool:
    """Tell whether a periodic timer has gone off and waits for a read to go on."""
    value, interval = (parse_timespec(lines[name][0]) for name in (b"it_value", b"it_interval"))
    return value == 0 and interval != 0 and lines[b"ticks"][0] != b"0"


def _catch_up(file: OpenFile, table: Table) -> None:
    """Let the kernel count the periods that have passed, as the next read would."""
    copy = table.copy(file)
    try:
        import ctypes

        syscall(SYS_TIMERFD_GETTIME, copy, ctypes.create_string_buffer(_ITIMERSPEC.size))
    finally:
        os.close(copy)


def parse_timespec(text: bytes) -> int:
    """Return the nanoseconds of `(seconds, nanoseconds)` as fdinfo prints them."""
    seconds, _, nanoseconds = text.strip(b"()").partition(b",")
    return int(seconds) * NS + int(nanoseconds)


def read_clock_offsets(process: Process) -> dict[int, int]:
    """Return what the target's time namespace adds to our clocks, by clock number."""
    offsets: dict[int, int] = {}
    try:
        # Not below task/: only a process's own folder has it, and a thread's number leads there.
        with open(f"/proc/{process.living_tid}/timens_offsets", "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return offsets  # CONFIG_TIME_NS is off: there are none.
    for line in text.splitlines():
        name, seconds, nanoseconds = line.split()
        for clockid, known in _CLOCK_NAMES.items():
            if known.encode() == name:
                offsets[clockid] = int(seconds) * NS + int(nanoseconds)
    return offsets


def _readable_clock(clockid: int) -> int:
    return {8: time.CLOCK_REALTIME, 9: time.CLOCK_BOOTTIME}.get(clockid, clockid)


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Make each timer, disarmed."""
    for record in records.of(TimerfdFile):
        if record.clockid not in _CLOCK_NAMES:
            build.refuse(f"timerfd {record.ref}", f"there is no timer of clock {record.clockid}")
        yield Opening((record.ref,), MakeTimerfd(record))


def settle(records: Records, placed: Placed, build: Builder) -> None:
    """Let the task arm its timers, in its own clocks."""
    calls: list[Call] = []
    for record in records.of(TimerfdFile):
        numbers = placed.numbers.get(record.ref)
        if numbers:
            calls.extend(_arm_calls(record, numbers[0], build))
    if calls:
        build.tape(
            placed.tgid,
            calls,
            "arm timerfds",
            needs=[placed.taken],
            after=[timens_entered(placed.tgid)],
            provides=[placed.placed],
        )


def _arm_calls(record: TimerfdFile, fd: int, build: Builder) -> Iterator[Call]:
    flags, value_ns = record.settime_flags, record.expires_ns
    if value_ns and record.clockid not in _REALTIME_CLOCKS and build.options.timens:
        flags |= TFD_TIMER_ABSTIME
    elif value_ns and not flags & TFD_TIMER_ABSTIME:
        value_ns = max(value_ns - _snapshot_ns(record.clockid, build), 1)
    if value_ns or record.interval_ns:
        spec = _ITIMERSPEC.pack(*divmod(record.interval_ns, NS), *divmod(value_ns, NS))
        yield Call(SYS_TIMERFD_SETTIME, (fd, flags, Blob(spec), 0))
    if record.ticks:
        yield Call(SYS_IOCTL, (fd, TFD_IOC_SET_TICKS, Blob(struct.pack("<Q", record.ticks))))


def _snapshot_ns(clockid: int, build: Builder) -> int:
    host = build.host
    name = _CLOCK_NAMES.get(clockid, "realtime")
    return {
        "realtime": host.snapshot_realtime_ns,
        "monotonic": host.snapshot_monotonic_ns,
        "boottime": host.snapshot_boottime_ns,
    }[name]


class MakeTimerfd:
    """Make a timerfd of a clock."""

    def __init__(self, record: TimerfdFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Make it disarmed."""
        record = self.record
        fd = syscall(SYS_TIMERFD_CREATE, record.clockid, TFD_CLOEXEC)
        keep(restorer, record.ref, fd)
        set_status_flags(fd, record.flags)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"make a timerfd of clock {self.record.clockid}"

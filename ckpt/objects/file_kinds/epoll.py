"""epoll: every watched file under its number, with its events and data.

The kernel keys an item by (file, number), and the number may meanwhile lead elsewhere or nowhere:
kcmp tells which file an item really watches. The task adds the items itself, when all descriptors
stand (a signalfd is watched for whom adds it); for an item whose number has moved on, the file is
put at that number for a moment. An item whose file has no descriptor any more cannot be added again
and is refused. What was ready is reported once more where it is edge-triggered.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Final

from ckpt.errors import CaptureError, Finding
from ckpt.host.syscalls import SYS_KCMP, syscall
from ckpt.objects.base import Plain
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
from ckpt.objects.file_kinds.placing import dup_call
from ckpt.objects.file_kinds.streams import external_refs
from ckpt.objects.passing import close_call
from ckpt.objects.steps import Blob, Call, Expect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckpt.objects.base import Builder, Records, Restorer

SYS_EPOLL_CREATE1, SYS_EPOLL_CTL, SYS_FCNTL = 291, 233, 72
EPOLL_CLOEXEC: Final = 0o2000000
EPOLL_CTL_ADD: Final = 1
EP_PRIVATE_BITS: Final = 0xF0000000
"""EPOLLWAKEUP, EPOLLONESHOT, EPOLLET, EPOLLEXCLUSIVE: fs/eventpoll.c, 6.18."""
KCMP_EPOLL_TFD: Final = 7
F_DUPFD: Final = 0
_EVENT: Final = struct.Struct("<IQ")
"""struct epoll_event, packed on x86_64, 12 bytes."""
_FOPS: Final = "eventpoll_fops"
_ITEM: Final = re.compile(rb"(\d+) events:\s*([0-9a-f]+) data:\s*([0-9a-f]+)\s+pos:\d+ ino:(\w+)")


class Watch(Plain, frozen=True):
    """One struct epitem."""

    fd: int
    """The number that it was added under."""
    file: int
    """Objref of the file that it watches; 0: it has no descriptor any more."""
    events: int
    data: int
    is_external: bool
    """It leads outside: what replaces it may not be something to watch."""


class EpollFile(FileRecord, tag="file.epoll", frozen=True, kw_only=True):
    """One struct eventpoll."""

    watches: list[Watch]
    """Ordered by number."""


RECORDS = (EpollFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is an epoll instance."""
    del table
    return file.is_anon(_FOPS, "[eventpoll]")


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse items that watch a file without a descriptor; warn of disarmed ones."""
    for file in files:
        yield from find_leak(file, table)
        for watch in read_watches(file, table):
            if not watch.file:
                what = f"epoll watches a file under number {watch.fd} that has no descriptor left"
                hint = "remove it with EPOLL_CTL_DEL before closing"
                yield Finding(table.where(file), what, hint)
            elif not watch.events & ~EP_PRIVATE_BITS:
                what = f"the disarmed one-shot watch of fd {watch.fd} may report errors and hangups"
                yield Finding(table.where(file), what, blocker=False)


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[EpollFile]:
    """Record every item."""
    for file in files:
        ref, flags, owner = file.common()
        watches = read_watches(file, table)
        yield EpollFile(ref=ref, flags=flags, owner=owner, watches=watches)


def read_watches(file: OpenFile, table: Table) -> list[Watch]:
    """Return the items of an epoll instance."""
    found = []
    seen: dict[int, int] = {}
    for line in table.fdinfo(file).get(b"tfd", ()):
        match = _ITEM.match(line)
        if match is None:
            raise CaptureError(f"unknown line in fdinfo: {line!r}", where=table.where(file))
        fd, events, data, ino = (int(match[1]), *(int(match[i], 16) for i in (2, 3, 4)))
        offset = seen[fd] = seen.get(fd, -1) + 1
        target = _find_watched(file, table, fd, offset, ino)
        external = target is not None and target.ref in external_refs(table)
        found.append(Watch(fd, target.ref if target else 0, events, data, external))
    return sorted(found, key=lambda watch: (watch.fd, watch.file))


def _find_watched(epoll: OpenFile, table: Table, fd: int, offset: int, ino: int) -> OpenFile | None:
    """Return the file that the `offset`th item of number `fd` watches: usually the one there."""
    slot = struct.pack("<III", epoll.fds[0], fd, offset)
    tid = table.process.living_tid
    expected = table.by_fd.get(fd)
    if expected is not None and _is_watched(tid, fd, slot):
        return expected
    for other in table.files:
        if other.view.ino == ino and _is_watched(tid, other.fds[0], slot):
            return other
    return None


def _is_watched(tid: int, fd: int, slot: bytes) -> bool:
    try:
        return syscall(SYS_KCMP, tid, tid, KCMP_EPOLL_TFD, fd, slot) == 0
    except OSError:
        return False  # Closed or removed meanwhile: the target runs.


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Make each instance, empty."""
    del build
    for record in records.of(EpollFile):
        yield Opening((record.ref,), MakeEpoll(record))


def settle(records: Records, placed: Placed, build: Builder) -> None:
    """Let the task add every item once all numbers stand."""
    calls: list[Call] = []
    for record in records.of(EpollFile):
        numbers = placed.numbers.get(record.ref)
        if numbers:
            for watch in record.watches:
                calls.extend(_add_calls(numbers[0], watch, placed))
    if calls:
        build.tape(
            placed.tgid,
            calls,
            "watch files with epoll",
            needs=[placed.placed],
            provides=[placed.settled],
        )


def _add_calls(epoll_fd: int, watch: Watch, placed: Placed) -> Iterator[Call]:
    event = Blob(_EVENT.pack(watch.events, watch.data))
    expect = Expect.ANY if watch.is_external else Expect.EXACT
    add = Call(SYS_EPOLL_CTL, (epoll_fd, EPOLL_CTL_ADD, watch.fd, event), 0, expect)
    numbers = placed.numbers.get(watch.file, ())
    if watch.fd in numbers:
        yield add
        return
    if not numbers:
        return  # Refused at the snapshot.
    if watch.fd not in placed.used:
        yield dup_call(numbers[0], watch.fd, False)
        yield add
        yield close_call(watch.fd)
        return
    aside = max(placed.used) + 1
    cloexec = watch.fd in placed.cloexec
    yield Call(SYS_FCNTL, (watch.fd, F_DUPFD, aside), aside)
    yield dup_call(numbers[0], watch.fd, False)
    yield add
    yield dup_call(aside, watch.fd, cloexec)
    yield close_call(aside)


class MakeEpoll:
    """Make an empty epoll instance."""

    def __init__(self, record: EpollFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Make it."""
        fd = syscall(SYS_EPOLL_CREATE1, EPOLL_CLOEXEC)
        keep(restorer, self.record.ref, fd)
        set_status_flags(fd, self.record.flags)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"make an epoll instance for {len(self.record.watches)} watches"

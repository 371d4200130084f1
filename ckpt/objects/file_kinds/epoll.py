"""epoll: every watched file under its number, with its events and data.

The kernel keys an item by (file, number), and the number may meanwhile lead elsewhere or nowhere:
kcmp tells which file an item really watches. The task adds the items itself, when all descriptors
stand (a signalfd is watched for whom adds it); for an item whose number has moved on, the file is
put at that number for a moment. An item whose file has no descriptor any more cannot be added again
and is refused.

Edge-triggered items: BPF sees which have something to report; the others are made to stay silent.
Without BPF only the whole instance can be asked: if it has anything to report, every edge may be
reported once more.
"""

from __future__ import annotations

import os
import re
import select
import struct
from typing import TYPE_CHECKING, Final

from ckpt.errors import CaptureError, Finding
from ckpt.host.facts import U32, U64
from ckpt.host.syscalls import SYS_KCMP, syscall
from ckpt.objects.base import Plain
from ckpt.objects.file_kinds.common import (
    Fd,
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
from ckpt.objects.steps import Blob, Call, Expect, Scratch, thread_done

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ckpt.objects.base import Builder, Records, Restorer

SYS_EPOLL_CREATE1, SYS_EPOLL_CTL, SYS_FCNTL = 291, 233, 72
EPOLL_CLOEXEC: Final = 0o2000000
SYS_EPOLL_WAIT: Final = 232
EPOLL_CTL_ADD, EPOLL_CTL_MOD = 1, 3
EP_PRIVATE_BITS: Final = 0xF0000000
"""EPOLLWAKEUP, EPOLLONESHOT, EPOLLET, EPOLLEXCLUSIVE: fs/eventpoll.c, 6.18."""
KCMP_EPOLL_TFD: Final = 7
F_DUPFD: Final = 0
_EVENT: Final = struct.Struct("<IQ")
"""struct epoll_event, packed on x86_64, 12 bytes."""
MAX_EVENTS: Final = 1024
"""Taken by one epoll_wait."""
ANY_READINESS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLPRI | select.EPOLLRDHUP
_DEEPEST: Final = 5
"""EP_MAX_NESTS + 1, fs/eventpoll.c, 6.18."""
_FOPS: Final = "eventpoll_fops"
_ITEM: Final = re.compile(rb"(\d+) events:\s*([0-9a-f]+) data:\s*([0-9a-f]+)\s+pos:\d+ ino:(\w+)")


class Watch(Plain, frozen=True):
    """One struct epitem."""

    fd: Fd
    """The number that it was added under."""
    file: int
    """Objref of the file that it watches; 0: it has no descriptor any more."""
    events: U32
    data: U64
    is_external: bool
    """It leads outside: what replaces it may not be something to watch."""
    is_quiet: bool
    """Edge-triggered, and all that had happened has been reported."""


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
        if _may_repeat_edges(file, table):
            what = "edge-triggered epoll watches may report once more what they had reported"
            yield Finding(table.where(file), what, "snapshot with BPF", blocker=False)
        for watch in read_watches(file, table):
            if not watch.file and (table.process.is_frozen or _is_lost(file, watch, table)):
                what = f"epoll watches a file under number {watch.fd} that has no descriptor left"
                hint = "remove it with EPOLL_CTL_DEL before closing"
                yield Finding(table.where(file), what, hint)
            elif is_spent(watch):
                what = f"the disarmed one-shot watch of fd {watch.fd} may report errors and hangups"
                yield Finding(table.where(file), what, blocker=False)


def _is_lost(file: OpenFile, watch: Watch, table: Table) -> bool:
    """Look again, at the numbers that a running target has now, and then whether the item stays."""
    tid = table.process.living_tid
    slot = struct.pack("<III", file.fds[0], watch.fd, 0)
    if any(_is_watched(tid, int(name), slot) for name in os.listdir(table.folder_fd)):
        return False
    return any(again.fd == watch.fd and not again.file for again in read_watches(file, table))


def _may_repeat_edges(file: OpenFile, table: Table) -> bool:
    if not table.process.is_frozen or file.view.file in table.process.ready_watches:
        return False
    watches = read_watches(file, table)
    return any(watch.events & select.EPOLLET and not watch.is_quiet for watch in watches)


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
    ready = table.process.ready_watches.get(file.view.file)
    is_idle = ready is None and not _has_ready(file, table)
    for line in table.fdinfo(file).get(b"tfd", ()):
        match = _ITEM.match(line)
        if match is None:
            raise CaptureError(f"unknown line in fdinfo: {line!r}", where=table.where(file))
        fd, events, data, ino = (int(match[1]), *(int(match[i], 16) for i in (2, 3, 4)))
        offset = seen[fd] = seen.get(fd, -1) + 1
        target = _find_watched(file, table, fd, offset, ino)
        external = target is not None and target.ref in external_refs(table)
        waits = ready is None or (target is not None and (fd, target.view.file) in ready)
        quiet = bool(events & select.EPOLLET) and (is_idle or not waits)
        found.append(Watch(fd, target.ref if target else 0, events, data, external, quiet))
    return sorted(found, key=lambda watch: (watch.fd, watch.file))


def _has_ready(file: OpenFile, table: Table) -> bool:
    """Tell whether epoll_wait would return something now, without taking it."""
    try:
        copy = table.copy(file)
    except OSError:
        return True  # Closed meanwhile: the target runs.
    try:
        poller = select.poll()
        poller.register(copy, select.POLLIN)
        return bool(poller.poll(0))
    finally:
        os.close(copy)


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


def reserved_fds(records: Records) -> Iterator[int]:
    """Return the numbers that items were added under: they are used for a moment."""
    for record in records.of(EpollFile):
        yield from (watch.fd for watch in record.watches)


def settle(records: Records, placed: Placed, build: Builder) -> None:
    """Let the task add every item once all numbers stand, inner instances first."""
    ours = {r.ref: r for r in records.of(EpollFile) if r.ref in placed.numbers}
    inner_first = sorted(ours.values(), key=lambda record: _depth(record, ours))
    if inner_first:
        build.host_step(
            AddWatches(placed, inner_first),
            "watch files with epoll",
            needs=[placed.taken],
            provides=[placed.placed, thread_done(placed.tgid)],
        )


def _depth(record: EpollFile, ours: Mapping[int, EpollFile], level: int = 0) -> int:
    """Return how many instances stand behind one another below this one (the kernel allows 5)."""
    inner = [ours[watch.file] for watch in record.watches if watch.file in ours]
    if not inner or level > _DEEPEST:
        return 0
    return 1 + max(_depth(other, ours, level + 1) for other in inner)


class AddWatches:
    """Let the task add items, in an order in which what had been consumed stays consumed.

    Edge-triggered items that had nothing to report are added first and what they report at once is
    taken; then spent one-shots, each let go off; then all that may report.
    """

    def __init__(self, placed: Placed, records: Sequence[EpollFile]) -> None:
        self.placed = placed
        self.records = tuple(records)

    def perform(self, restorer: Restorer) -> None:
        """Add them one instance after the other."""
        for record in self.records:
            fd = self.placed.numbers[record.ref][0]
            quiet = [watch for watch in record.watches if watch.is_quiet and not is_spent(watch)]
            self._add(restorer, fd, quiet)
            for _ in range(0, len(quiet), MAX_EVENTS):
                restorer.play(self.placed.tgid, [_take_call(fd, min(len(quiet), MAX_EVENTS))])
            for watch in record.watches:
                if is_spent(watch):
                    self._add_spent(restorer, fd, watch)
            rest = [w for w in record.watches if not w.is_quiet and not is_spent(w)]
            self._add(restorer, fd, rest)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        count = sum(len(record.watches) for record in self.records)
        return f"add {count} watches to {len(self.records)} epoll instances"

    def _add(self, restorer: Restorer, epoll_fd: int, watches: Sequence[Watch]) -> None:
        calls = [
            call
            for watch in watches
            for call in add_calls(epoll_fd, watch, watch.events, self.placed)
        ]
        restorer.play(self.placed.tgid, calls)

    def _add_spent(self, restorer: Restorer, epoll_fd: int, watch: Watch) -> None:
        """Let a one-shot go off by whatever the file is ready for; if by nothing, mute it.

        A muted one still reports errors and hangups, which the kernel adds to every watch.
        """
        tid = self.placed.tgid
        bait = watch.events | ANY_READINESS
        restorer.play(tid, list(add_calls(epoll_fd, watch, bait, self.placed)))
        taken = restorer.play(tid, [_take_call(epoll_fd, 1)])[0]
        if not taken:
            restorer.play(
                tid, list(add_calls(epoll_fd, watch, watch.events, self.placed, EPOLL_CTL_MOD))
            )


def is_spent(watch: Watch) -> bool:
    """Tell whether it is a one-shot that has gone off and was not armed again."""
    return not watch.events & ~EP_PRIVATE_BITS


def _take_call(epoll_fd: int, count: int) -> Call:
    events = Scratch(count * _EVENT.size)
    return Call(SYS_EPOLL_WAIT, (epoll_fd, events, count, 0), expect=Expect.NOT_NEGATIVE)


def add_calls(
    epoll_fd: int, watch: Watch, events: int, placed: Placed, operation: int = EPOLL_CTL_ADD
) -> Iterator[Call]:
    """Return the calls that add (or modify) an item under its number, wherever that leads now."""
    event = Blob(_EVENT.pack(events, watch.data))
    expect = Expect.ANY if watch.is_external else Expect.EXACT
    change = Call(SYS_EPOLL_CTL, (epoll_fd, operation, watch.fd, event), 0, expect)
    numbers = placed.numbers.get(watch.file, ())
    if watch.fd in numbers:
        yield change
    elif numbers and watch.fd not in placed.used:
        yield dup_call(numbers[0], watch.fd, False)
        yield change
        yield close_call(watch.fd)
    elif numbers:
        aside = max(placed.used) + 1
        yield Call(SYS_FCNTL, (watch.fd, F_DUPFD, aside), aside)
        yield dup_call(numbers[0], watch.fd, False)
        yield change
        yield dup_call(aside, watch.fd, watch.fd in placed.cloexec)
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

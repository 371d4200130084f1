"""The calls that actions will have a process make: those that no tape of the plan holds.

An action decides when it is performed; what can be said before is said here, and what cannot is
`Later`. The restore's own calls (opening files, sending descriptors) are described by the actions.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.tape_text import Later, PlannedCall, planned
from ckpt.errors import PlanError
from ckpt.objects import area_actions, files, interrupted, last_calls, task
from ckpt.objects.file_kinds import epoll, socketpair
from ckpt.objects.passing import close_call, lowest_free, receive_call
from ckpt.objects.steps import Blob, Call, Entry, Expect, Scratch
from ckpt.restorer import EXIT_CALL, unmap_call
from ckpt.tape import CODE_BYTES, DATA_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.image.reader import ImageFile
    from ckpt.objects.file_kinds.epoll import AddWatches, EpollFile, Watch
    from ckpt.objects.steps import Step

_SYS_MMAP: Final = 9
_SYS_CLOSE_RANGE: Final = 436
_SYS_DUP3: Final = 292
_READ, _WRITE, _EXEC = 1, 2, 4
_PRIVATE_ANON_NOREPLACE: Final = 0x100022
_EVENT_BYTES: Final = 12
_MAYMOVE_FIXED: Final = 3
"""MREMAP_MAYMOVE|MREMAP_FIXED, `include/uapi/linux/mman.h`, 6.18."""


class Facts(NamedTuple):
    """What is known before a restore begins, beside the plan."""

    image: ImageFile
    root_tid: int
    socket_fd: int
    region: int
    """Where the tape will be mapped."""


def calls_of(step: Step, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    """Yield (tid, call) for every call that a step will have the process make."""
    if step.action is None:
        for call in step.calls:
            yield step.tid, planned(call)
    else:
        yield from _calls_of_action(step.action, facts)


def creation_calls(facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    """Yield the calls of the new process before its first step: a tape, the socket, nothing else.

    The areas that are unmapped at the end are those of the seed, where the kernel has put them.
    """
    tid, last = facts.root_tid, 0xFFFF_FFFF
    data = facts.region + CODE_BYTES
    for start, size, prot in (
        (facts.region, CODE_BYTES, _READ | _EXEC),
        (data, DATA_BYTES, _READ | _WRITE),
    ):
        yield (
            tid,
            PlannedCall(_SYS_MMAP, (start, size, prot, _PRIVATE_ANON_NOREPLACE, -1, 0), start),
        )
    received = Later("the socket's number here")
    when = "if the socket has another number"
    socket = facts.socket_fd
    yield tid, PlannedCall(_SYS_DUP3, (received, socket, 0), socket, when=when)
    yield tid, PlannedCall(_SYS_CLOSE_RANGE, (0, socket - 1, 0))
    yield tid, PlannedCall(_SYS_CLOSE_RANGE, (socket + 1, last, 0))
    area = (Later("each area of the seed"), Later("its size"))
    yield tid, PlannedCall(area_actions.SYS_MUNMAP, area)


def parts_of(step: Step) -> list[str]:
    """Return what an action that does several things does, one line each; else nothing."""
    if isinstance(step.action, files.MakeFiles):
        return [action.describe() for action in step.action.actions]
    return []


@functools.singledispatch
def _calls_of_action(action: Any, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    """Most actions have the process make no call."""
    del action, facts
    return iter(())


@_calls_of_action.register(files.MakeFiles)
def _(action: files.MakeFiles, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    for part in action.actions:
        yield from _calls_of_action(part, facts)


@_calls_of_action.register(area_actions.MoveSpecial)
def _(action: area_actions.MoveSpecial, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    """By way of a free place, each of them: old and new places may overlap."""
    del facts
    tid, mremap = action.tid, area_actions.SYS_MREMAP
    gone = (Later("each that the target has not"), Later("its size"))
    yield tid, PlannedCall(area_actions.SYS_MUNMAP, gone, when="if there is one")
    when = "if any of them is not in its place already"
    areas = sorted(action.areas.items(), key=lambda item: item[1])
    for name, (start, end) in areas:
        size, now = end - start, Later(f"{name.decode('ascii', 'replace')} now")
        args = (now, size, size, _MAYMOVE_FIXED, Later("a free place"))
        yield tid, PlannedCall(mremap, args, None, when=when)
    for _name, (start, end) in areas:
        size, now = end - start, Later("the free place")
        yield tid, PlannedCall(mremap, (now, size, size, _MAYMOVE_FIXED, start), start, when=when)


@_calls_of_action.register(area_actions.FillPages)
def _(action: area_actions.FillPages, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    if action.ref not in facts.image.pages:
        return
    extents, offset = facts.image.page_extents(action.ref)
    fd = next(lowest_free({action.socket_fd}))
    calls = [
        receive_call(action.socket_fd, 1),
        *area_actions.build_reads(fd, extents, offset),
        close_call(fd),
    ]
    for call in calls if extents else ():
        yield action.tid, planned(call)


@_calls_of_action.register(last_calls.LastCalls)
def _(action: last_calls.LastCalls, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    del facts
    for call in action.calls:
        yield action.tid, planned(call)


@_calls_of_action.register(task.UnmapTape)
def _(action: task.UnmapTape, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    yield action.tid, planned(unmap_call(facts.region))


@_calls_of_action.register(task.EndLeader)
def _(action: task.EndLeader, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    del facts
    yield action.tgid, planned(EXIT_CALL)


@_calls_of_action.register(interrupted.Rearm)
def _(action: interrupted.Rearm, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    """The call that arms the restart_block: entered with a stop pending, it returns at once."""
    del facts
    call = action.call
    if call.kind.value != "rearm" or call.rearm is None:
        return
    try:
        built = interrupted.build_rearm(call, action.regs)
    except ValueError as error:
        raise PlanError(f"its call cannot be armed: {error}", where=f"tid {action.tid}") from error
    args: list[int | Blob | Scratch | Later] = list(built.args)
    if built.arg >= 0:
        left = call.rearm.remaining_ns or 0
        how = "now plus " if built.absolute and not call.rearm.deadline_ns else ""
        args[built.arg] = Later(f"{how}{left / 1e9:.3f} s, and what the clock lags")
        if built.absolute and call.rearm.deadline_ns:
            args[built.arg] = Later(f"until {call.rearm.deadline_ns / 1e9:.3f} s of its clock")
    entry = Entry.INT80 if built.entry.value == "int80" else Entry.SYSCALL
    yield action.tid, PlannedCall(built.nr, tuple(args), None, Expect.EXACT, entry)


@_calls_of_action.register(socketpair.MakePair)
def _(action: socketpair.MakePair, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    """`socketpair.make_in_task`: the two numbers are found out by two eventfds."""
    tid, record = facts.root_tid, action.first
    eventfd = PlannedCall(socketpair.SYS_EVENTFD2, (0, 0), expect=Expect.NOT_NEGATIVE)
    closing = [PlannedCall(3, (Later(f"the {which} number"),)) for which in ("first", "second")]
    made = [Call(socketpair.SYS_SOCKETPAIR, (1, record.kind, 0, Scratch(8)))]
    uid, gid = record.peer_uid, record.peer_gid
    if uid or gid:
        same = socketpair.UNCHANGED
        ids = (socketpair.SYS_SETRESGID, gid), (socketpair.SYS_SETRESUID, uid)
        become = [Call(nr, (same, value, same)) for nr, value in ids]
        back = [Call(nr, (same, 0, same)) for nr, _ in reversed(ids)]
        made = [*become, *made, *back]
    for call in (eventfd, eventfd, *closing, *map(planned, made), *closing):
        yield tid, call


@_calls_of_action.register(epoll.AddWatches)
def _(action: epoll.AddWatches, facts: Facts) -> Iterator[tuple[int, PlannedCall]]:
    del facts
    for record in action.records:
        for call in _watch_calls(action, record):
            yield action.placed.tgid, call


def _watch_calls(action: AddWatches, record: EpollFile) -> Iterator[PlannedCall]:
    """The order of `AddWatches.perform`."""
    fd = action.placed.numbers[record.ref][0]
    spent = [watch for watch in record.watches if epoll.is_spent(watch)]
    quiet = [w for w in record.watches if w.is_quiet and not epoll.is_spent(w)]
    yield from _adding(action, fd, quiet)
    batch = epoll.MAX_EVENTS
    for _ in range(0, len(quiet), batch):
        yield _taking(fd, min(len(quiet), batch))
    for watch in spent:
        bait = watch.events | epoll.ANY_READINESS
        yield from map(planned, epoll.add_calls(fd, watch, bait, action.placed))
        yield _taking(fd, 1)
        muting = epoll.add_calls(fd, watch, watch.events, action.placed, epoll.EPOLL_CTL_MOD)
        for call in muting:
            yield planned(call)._replace(when="if the call before returned 0")
    rest = [watch for watch in record.watches if not watch.is_quiet and not epoll.is_spent(watch)]
    yield from _adding(action, fd, rest)


def _adding(action: AddWatches, fd: int, watches: Sequence[Watch]) -> Iterator[PlannedCall]:
    for watch in watches:
        yield from map(planned, epoll.add_calls(fd, watch, watch.events, action.placed))


def _taking(fd: int, count: int) -> PlannedCall:
    room = Scratch(count * _EVENT_BYTES)
    args = (fd, room, count, 0)
    return PlannedCall(epoll.SYS_EPOLL_WAIT, args, expect=Expect.NOT_NEGATIVE)

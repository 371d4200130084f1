"""Threads as HTML: those that wait in the same place are one row, with the backtrace of one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.calls import ThreadCall, describe_thread
from ckpt.debug.html_text import (
    TIMES,
    Html,
    counted,
    duration,
    element,
    joined,
    ranges,
    safe,
    short,
    table,
)
from ckpt.debug.unwind import name_frame, walk_stack
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckpt.debug.symbols import AddressSpace
    from ckpt.objects.base import Records

_MAX_THREADS: Final = 20_000
_MAX_GROUPS: Final = 80
_MAX_BACKTRACES: Final = 40
_MAX_FRAMES: Final = 32
_MAX_NAMES: Final = 3
_NUMBER: Final = re.compile("[0-9]+")
_STRATEGIES: Final = {
    "native": "the kernel restarts it",
    "rearm": "armed again, with the time that was left",
    "reissue": "made again, with the time that was left",
    "done": "it has its result",
}


class Group(NamedTuple):
    """Threads that are in the same call at the same place."""

    calls: list[ThreadCall]
    record: ThreadRecord
    """Of the first."""


def group_threads(records: Records, space: AddressSpace) -> list[Group]:
    """Return groups of threads that are alike, the largest first."""
    groups: dict[tuple[str, ...], Group] = {}
    seen: dict[tuple[Any, ...], ThreadCall] = {}
    for record in records.of(ThreadRecord)[:_MAX_THREADS]:
        call = _describe(record, space, seen)
        # Names that only differ in a number are of one kind.
        name = _NUMBER.sub("#", call.comm)
        key = (name, call.call, call.strategy, call.reason, call.location)
        group = groups.setdefault(key, Group([], record))
        group.calls.append(call)
    return sorted(groups.values(), key=lambda group: -len(group.calls))


def _describe(
    record: ThreadRecord, space: AddressSpace, seen: dict[tuple[Any, ...], ThreadCall]
) -> ThreadCall:
    """Describe a thread; what stands at one rip is disassembled once."""
    call = record.interrupted
    key = (record.regs.rip, call.kind, call.nr, call.reason)
    known = seen.get(key)
    if known is None:
        known = seen[key] = describe_thread(record, space)
        return known
    left = call.rearm.remaining_ns if call.rearm is not None else call.remaining_ns
    comm = record.comm.decode("utf-8", "surrogateescape")
    remaining_s = None if left is None else left / 1e9
    return known._replace(tid=record.tid, comm=comm, remaining_s=remaining_s)


def render_threads(records: Records, space: AddressSpace) -> Html:
    """Return a table of the threads, and the backtraces of as many as there is room for."""
    groups = group_threads(records, space)
    if not groups:
        return element("p", "The image has no threads.", class_="quiet")
    total = len(records.of(ThreadRecord))
    shown = groups[:_MAX_GROUPS]
    rows = [
        _row(group, space, with_stack=index < _MAX_BACKTRACES) for index, group in enumerate(shown)
    ]
    head = ("threads", "was in", "goes on by", "#time left", "where")
    parts = [
        element(
            "div",
            table(head, rows, f"{counted(total, 'thread')} in {counted(len(groups), 'place')}"),
            class_="scroll",
        )
    ]
    rest = total - sum(len(group.calls) for group in shown)
    if rest:
        parts.append(element("p", f"and {counted(rest, 'thread')} elsewhere", class_="quiet"))
    return joined(parts)


def _row(group: Group, space: AddressSpace, *, with_stack: bool) -> Sequence[Html]:
    first = group.calls[0]
    names = list(dict.fromkeys(call.comm for call in group.calls))
    shown = ", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else "")
    many = len(group.calls) > 1
    who = joined(
        (
            element("b", f"{len(group.calls):,} {TIMES} " if many else "", short(shown, 48)),
            element("div", ranges(call.tid for call in group.calls), class_="quiet mono"),
        )
    )
    what = joined(
        (
            element("span", first.call or "its own code", class_="mono"),
            element("div", short(first.instruction, 60), class_="quiet mono nowrap"),
        )
    )
    how = joined(
        (
            element("span", first.strategy, class_=f"chip s-{first.strategy}"),
            element(
                "div",
                short(first.reason, 70),
                class_="quiet",
                title=_STRATEGIES.get(first.strategy),
            ),
        )
    )
    where = [element("span", short(first.location or "nowhere", 60), class_="mono")]
    if with_stack:
        where.append(_backtrace(group, space))
    return who, what, how, element("td", _time_left(group), class_="num"), joined(where)


def _time_left(group: Group) -> str:
    left = [call.remaining_s for call in group.calls if call.remaining_s is not None]
    if not left:
        return "-"
    low, high = (duration(int(max(value, 0) * 1e9)) for value in (min(left), max(left)))
    return low if low == high else f"{low} - {high}"


def _backtrace(group: Group, space: AddressSpace) -> Html:
    walk = walk_stack(space, group.record.regs, _MAX_FRAMES)
    if len(walk.frames) < 2:
        return Html("")
    frames = [
        element("li", short(name_frame(space, frame) or f"{frame.address:#x}", 80), class_="mono")
        for frame in walk.frames
    ]
    which = f" of {group.calls[0].tid}" if len(group.calls) > 1 else ""
    return element(
        "details",
        element("summary", f"backtrace{which}, {counted(len(frames), 'frame')}"),
        element("ol", *frames, start=0),
        element("p", safe(walk.end), class_="quiet"),
    )

"""Events of a trace as lines for people, and what they come to in the end."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from ckpt.debug.inspect_words import duration
from ckpt.debug.trace_events import (
    Altstack,
    AnyEvent,
    Armed,
    Eintr,
    Exec,
    Exit,
    Fork,
    FutexWait,
    RestartEntered,
    RestartResult,
    Robust,
    Signal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECOND: Final = 1_000_000_000
_MOST_ROWS: Final = 10


def event_line(event: AnyEvent, began_ns: int) -> str:
    """Return one line: seconds since the trace began, thread, kind, details."""
    at = (event.time_ns - began_ns) / _SECOND
    who = f"{event.tid} {event.comm}"
    return f"{at:11.6f} {who:<22} {event.NAME:<8} {describe(event)}"


def describe(event: AnyEvent) -> str:
    """Return the details of an event."""
    if isinstance(event, Signal | Altstack):
        return _signal(event)
    if isinstance(event, Armed | RestartEntered | RestartResult | Eintr):
        return _call(event)
    if isinstance(event, Robust | FutexWait):
        return _futex(event)
    return _life(event)


def _life(event: Fork | Exec | Exit) -> str:
    if isinstance(event, Fork):
        what = "thread" if event.child_tgid == event.tgid else "process"
        return f"made {what} {event.child_tid}"
    if isinstance(event, Exec):
        if event.old_tid == event.tid:
            return event.path
        return f"{event.path}, asked for by thread {event.old_tid or 'of unknown number'}"
    how = f"status {event.status}"
    if event.signal is not None:
        how = f"killed by {event.signal}" + (", core dumped" if event.has_dumped_core else "")
    return how + (f", the last thread of process {event.tgid}" if event.is_last else "")


def _restart(event: Armed | RestartEntered) -> str:
    arguments = ", ".join(f"{name} {text}" for name, text in event.arguments.items())
    left = f", {duration(event.left_ns)} left" if event.left_ns is not None else ""
    return f"{event.function}({arguments}){left}"


def _call(event: Armed | RestartEntered | RestartResult | Eintr) -> str:
    if isinstance(event, Armed):
        return f"{event.call} = -ERESTART_RESTARTBLOCK: {_restart(event)}"
    if isinstance(event, RestartEntered):
        return f"restart_syscall: {_restart(event)}"
    if isinstance(event, RestartResult):
        meaning = f" ({event.meaning})" if event.meaning else ""
        return f"restart_syscall = {event.result}{meaning}"
    cause = f"by the handler of {event.signal}" if event.signal else "by the call itself"
    return f"{event.call} = -EINTR, {cause}"


def _signal(event: Signal | Altstack) -> str:
    if isinstance(event, Altstack):
        again = ", which it was on already" if event.was_on_it else ""
        stack = f"{event.stack:#x}-{event.stack + event.stack_bytes:#x}"
        return f"{event.signal}: {event.action} starts on the alternate stack {stack}{again}"
    source = f" from {event.source}" if event.source else ", sent before the trace began"
    waited = f", {duration(event.waited_ns)} ago" if event.waited_ns is not None else ""
    action = f"handler {event.action}" if event.action[0].isdigit() else event.action
    flags = f" {event.flags}" if event.flags else ""
    fatal = ", the process ends" if event.is_fatal else ""
    return f"{event.signal} ({event.code}){source}{waited}: {action}{flags}{fatal}"


def _futex(event: Robust | FutexWait) -> str:
    place = f" ({event.place})" if event.place else ""
    where = f"futex {event.futex:#x}{place}"
    if isinstance(event, Robust):
        if event.problem:
            return f"robust list at {event.futex:#x}: {event.problem}"
        waiters = ", has waiters" if event.has_waiters else ""
        pending = ", was being taken or given back" if event.is_pending else ""
        pi = ", priority inheritance" if event.is_pi else ""
        return f"{where} holds {event.word:#x}: will be FUTEX_OWNER_DIED{waiters}{pending}{pi}"
    lasted = duration(event.lasted_ns) + (" or longer" if event.was_before else "")
    if event.result is None:
        return f"{where} {event.operation}: waits for {lasted} by now"
    meaning = f" {event.meaning}" if event.meaning else ""
    return f"{where} {event.operation} took {lasted} = {event.result}{meaning}"


class Summary:
    """What a trace has seen, counted; bounded, whatever the number of tasks."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.threads: Counter[tuple[int, str]] = Counter()
        self.calls: Counter[str] = Counter()
        """Calls that returned EINTR or were armed for a restart, by name."""
        self.signals: Counter[str] = Counter()

    def add(self, event: AnyEvent) -> None:
        """Count an event."""
        self.events[event.NAME] += 1
        self.threads[event.tid, event.comm] += 1
        if isinstance(event, Eintr):
            self.calls[f"{event.call.partition('(')[0]} = -EINTR"] += 1
        elif isinstance(event, Armed):
            self.calls[f"{event.call.partition('(')[0]} restarted"] += 1
        elif isinstance(event, Signal):
            self.signals[f"{event.signal} from {event.source or 'unknown'}"] += 1
        if len(self.threads) > 1 << 16:
            self.threads = Counter(dict(self.threads.most_common(1 << 15)))

    def lines(self, lasted_s: float, lost: int, unwatched: int) -> Iterator[str]:
        """Yield the summary, line by line."""
        total = sum(self.events.values())
        yield f"{total} events in {lasted_s:.3f} s, {lost} lost"
        if unwatched:
            yield f"{unwatched} children were not traced: there were too many at once"
        yield from _rows("events", self.events)
        yield from _rows("calls", self.calls)
        yield from _rows("signals", self.signals)
        names = Counter({f"{tid} {comm}": n for (tid, comm), n in self.threads.items()})
        yield from _rows("threads", names)

    def plain(self, lasted_s: float, lost: int, unwatched: int) -> dict[str, object]:
        """Return the summary for JSON."""
        threads = [
            {"tid": tid, "comm": comm, "events": n} for (tid, comm), n in self.threads.most_common()
        ]
        return {
            "event": "summary",
            "seconds": lasted_s,
            "lost": lost,
            "unwatched": unwatched,
            "events": dict(self.events),
            "calls": dict(self.calls),
            "signals": dict(self.signals),
            "threads": threads,
        }


def _rows(title: str, counts: Counter[str]) -> Iterator[str]:
    """Yield the most frequent of a table, and say how many are left out."""
    if not counts:
        return
    yield f"{title}:"
    for name, number in counts.most_common(_MOST_ROWS):
        yield f"  {number:8} {name}"
    if len(counts) > _MOST_ROWS:
        yield f"           and {len(counts) - _MOST_ROWS} more"

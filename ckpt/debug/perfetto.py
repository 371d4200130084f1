"""Writes trace events as a file for ui.perfetto.dev, in Chrome's Trace Event Format.

Owns the file and how an event becomes slices, instants and arrows. Definition of the format:
https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (October 2016).

It is the JSON Array Format: the only form whose end may be missing, and the one that all versions
of the viewer read alike (`displayTimeUnit` of the object form has changed the meaning of `ts` in
some, https://github.com/google/perfetto/issues/106). Times are microseconds since the trace began,
with three decimals. The array is closed again by the very write that adds to it, so the file is
whole JSON after each event. Only a kill inside that write, between two pages of the file, may
leave its last line cut off, which the viewer passes over.

Threads are tracks. What lasts is a slice: a thread's life (B, E; from the trace's beginning when
its birth was not seen), a long futex wait and a call from its interruption to the result of its
restart (X). Both ends of an arrow (fork, a signal from a watched process) have to be slices as
well, these of length 0, which the viewer shows as instants. The rest are instants (i).
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from ckpt.debug.trace_events import (
    Armed,
    Eintr,
    Exec,
    Exit,
    Fork,
    FutexWait,
    RestartResult,
    Signal,
)
from ckpt.errors import CkptError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.trace_events import Event

_HEAD: Final = ("event", "time_ns", "tid", "tgid", "comm")
_ADDRESSES: Final = ("futex", "stack")
_OPEN: Final = b"[\n"
_CLOSE: Final = b"\n]\n"

Entry = dict[str, Any]
"""One object of the array."""


class PerfettoFile:
    """A trace file at `path`, of process `pid` from `began_ns` (CLOCK_MONOTONIC) on.

    Use as a context manager. Raises CkptError when the file cannot be written: at once, and in
    `add` when its disk is full.
    """

    def __init__(self, path: str, began_ns: int, pid: int) -> None:
        self._path = path
        self._tracks = Tracks(began_ns, pid)
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise CkptError("cannot be written", where=path, errno=error.errno) from error
        self._end = 0
        try:
            self._write(_OPEN + _CLOSE)
        except BaseException:
            os.close(self._fd)
            raise
        self._end = len(_OPEN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_reason: object) -> None:
        self.close()

    def add(self, event: Event) -> None:
        """Write one event; the file is whole again when this returns."""
        self._append(self._tracks.entries(event))

    def close(self) -> None:
        """End what is still going on, and close the file; a second time does nothing."""
        if self._fd < 0:
            return
        try:
            self._append(self._tracks.end(time.monotonic_ns()))
        finally:
            os.close(self._fd)
            self._fd = -1

    def _append(self, entries: Iterator[Entry]) -> None:
        lines = [json.dumps(entry, separators=(",", ":")).encode("ascii") for entry in entries]
        if not lines:
            return
        first = b",\n" if self._end > len(_OPEN) else b""
        data = first + b",\n".join(lines)
        self._write(data + _CLOSE)
        self._end += len(data)

    def _write(self, data: bytes) -> None:
        """Write over the closing bracket."""
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], self._end + done)
        except OSError as error:
            raise CkptError("cannot be written", where=self._path, errno=error.errno) from error


class Tracks:
    """What is known of each thread; turns events into entries of the file."""

    def __init__(self, began_ns: int, pid: int) -> None:
        self._began_ns = began_ns
        self._processes = {pid}
        self._process_names: dict[int, str] = {}
        self._thread_names: dict[tuple[int, int], str] = {}
        self._alive: dict[int, tuple[int, float]] = {}
        """tgid and beginning of each thread whose life is a slice that has not ended."""
        self._ended_us: dict[int, float] = {}
        """When the last thread of that number ended."""
        self._armed: dict[int, list[Armed]] = {}
        self._waits: dict[int, FutexWait] = {}
        """Long waits that go on, by tid."""
        self._latest_us = 0.0
        self._arrows = 0

    def entries(self, event: Event) -> Iterator[Entry]:
        """Yield what one event is in the file; events come in about the order of their times."""
        self._latest_us = max(self._latest_us, self._us(event.time_ns))
        self._processes.add(event.tgid)
        if isinstance(event, Exec):
            yield from self._replaced(event)
        yield from self._seen(event.tid, event.tgid, event.comm)
        match event:
            case Fork():
                yield from self._fork(event)
            case Signal():
                yield from self._signal(event)
            case FutexWait():
                yield from self._futex(event)
            case RestartResult():
                yield from self._restarted(event)
            case _:
                yield self._instant(event)
        if isinstance(event, Armed):
            self._armed.setdefault(event.tid, []).append(event)
        elif isinstance(event, Eintr):
            self._armed.pop(event.tid, None)
        elif isinstance(event, Exit):
            yield from self._dies(event.tid, self._us(event.time_ns))

    def end(self, now_ns: int) -> Iterator[Entry]:
        """Yield the ends of all that has not ended when the trace does."""
        end_us = max(self._latest_us, self._us(now_ns))
        for tid in list(self._alive):
            yield from self._dies(tid, end_us, {"ended": "not before the trace did"})

    def _us(self, time_ns: int) -> float:
        return max(0, time_ns - self._began_ns) / 1000

    def _instant(self, event: Event) -> Entry:
        where = {"ph": "i", "s": "t", "ts": self._us(event.time_ns)}
        return {**where, **_named(event, _title(event))}

    def _slice(self, event: Event, name: str, start_us: float, end_us: float) -> Entry:
        length_us = round(max(0.0, end_us - start_us), 3)
        return {"ph": "X", "ts": start_us, "dur": length_us, **_named(event, name)}

    def _seen(self, tid: int, tgid: int, comm: str) -> Iterator[Entry]:
        """Yield names that are new, and the life of a thread that was there before the trace."""
        if self._thread_names.get((tgid, tid)) != comm:
            self._thread_names[tgid, tid] = comm
            yield _name("thread_name", tid, tgid, comm)
        if tgid not in self._process_names or (tid == tgid and self._process_names[tgid] != comm):
            self._process_names[tgid] = comm
            yield _name("process_name", tid, tgid, comm)
        if tid and tid not in self._alive:
            yield from self._lives(tid, tgid, self._ended_us.get(tid, 0.0), is_born=False)

    def _lives(self, tid: int, tgid: int, ts: float, is_born: bool) -> Iterator[Entry]:
        self._alive[tid] = tgid, ts
        args = {"began": "in the trace" if is_born else "before the trace, or unseen"}
        yield {"ph": "B", "ts": ts, "pid": tgid, "tid": tid, **_LIFE, "args": args}

    def _dies(self, tid: int, ts: float, args: dict[str, str] | None = None) -> Iterator[Entry]:
        """Yield the end of a thread's life, and of what it was in."""
        self._armed.pop(tid, None)
        wait = self._waits.pop(tid, None)
        if wait is not None:
            yield self._slice(wait, "futex wait", self._us(wait.began_ns), ts)
        if tid in self._alive:
            tgid, began = self._alive.pop(tid)
            self._ended_us[tid] = ts = max(ts, began)
            self._thread_names.pop((tgid, tid), None)
            yield {"ph": "E", "ts": ts, "pid": tgid, "tid": tid, **_LIFE, "args": args or {}}

    def _replaced(self, event: Exec) -> Iterator[Entry]:
        """After an exec only the leader is left, even when another thread asked for it."""
        self._armed.pop(event.tid, None)
        if event.old_tid != event.tid and event.old_tid in self._alive:
            yield from self._dies(event.old_tid, self._us(event.time_ns))

    def _arrow(self, name: str, start: tuple[int, int, float], end: Entry) -> tuple[Entry, Entry]:
        """Return both ends of an arrow, from (tid, tgid, ts) to a slice's beginning."""
        self._arrows += 1
        common = {"name": name, "cat": "ckpt", "id": self._arrows}
        tid, tgid, ts = start
        return (
            {"ph": "s", "ts": ts, "pid": tgid, "tid": tid, **common},
            {"ph": "f", "bp": "e", "ts": end["ts"], "pid": end["pid"], "tid": end["tid"], **common},
        )

    def _fork(self, event: Fork) -> Iterator[Entry]:
        ts = self._us(event.time_ns)
        yield self._slice(event, _title(event), ts, ts)
        if not event.child_tid:
            return
        self._processes.add(event.child_tgid)
        child, group = event.child_tid, event.child_tgid
        yield from self._dies(child, ts)  # when the end of an earlier one was lost
        (life,) = self._lives(child, group, ts, is_born=True)
        start, end = self._arrow("fork", (event.tid, event.tgid, ts), life)
        yield start
        yield from (life, end)
        if child == group:
            self._process_names.pop(group, None)
        yield from self._seen(child, group, event.comm)

    def _signal(self, event: Signal) -> Iterator[Entry]:
        sender, ts = event.sender, self._us(event.time_ns)
        received = self._slice(event, f"signal {event.signal}", ts, ts)
        if sender is None or not sender.tid or sender.tgid not in self._processes:
            yield self._instant(event)
            return
        sent = self._us(event.time_ns - (event.waited_ns or 0))
        if sender.tid in self._alive or sender.tid not in self._ended_us:
            yield from self._seen(sender.tid, sender.tgid, sender.comm)
        where = {"ph": "X", "ts": sent, "dur": 0.0, "pid": sender.tgid, "tid": sender.tid}
        args = {"to_tid": event.tid, "to_process": event.to_process, "code": event.code}
        yield {**where, "name": f"send {event.signal}", "cat": "signal", "args": args}
        start, end = self._arrow("signal", (sender.tid, sender.tgid, sent), received)
        yield start
        yield from (received, end)

    def _futex(self, event: FutexWait) -> Iterator[Entry]:
        if event.result is None:
            self._waits[event.tid] = event
            yield self._instant(event)
            return
        self._waits.pop(event.tid, None)
        start_us = self._us(event.began_ns)
        yield self._slice(event, "futex wait", start_us, start_us + event.lasted_ns / 1000)

    def _restarted(self, event: RestartResult) -> Iterator[Entry]:
        armed = self._armed.pop(event.tid, [])
        if not armed:
            yield self._instant(event)
            return
        # A call that is interrupted once more is armed again just before its result is told.
        first, again = armed[0], armed[1:]
        end_ns = again[0].time_ns if again else event.time_ns
        entry = self._slice(
            event, f"restart of {first.call}", self._us(first.time_ns), self._us(end_ns)
        )
        entry["args"] = {**_arguments(first), **entry["args"]}
        yield entry
        if again:
            self._armed[event.tid] = again


_LIFE: Final = {"name": "thread", "cat": "life"}


def _title(event: Event) -> str:
    """Return the name that a viewer shows on the event itself."""
    match event:
        case Signal():
            return f"signal {event.signal}"
        case RestartResult():
            return "restart result"
        case FutexWait():
            return "futex wait goes on"
    return event.NAME


def _named(event: Event, name: str) -> Entry:
    where = {"pid": event.tgid, "tid": event.tid}
    return {"name": name, "cat": event.NAME, **where, "args": _arguments(event)}


def _arguments(event: Event) -> Entry:
    """Return all fields but those that an entry has anyway; addresses as a viewer can show them."""
    plain: Entry = msgspec.to_builtins(event)
    for key in _HEAD:
        del plain[key]
    return {key: hex(value) if key in _ADDRESSES else value for key, value in plain.items()}


def _name(kind: str, tid: int, tgid: int, name: str) -> Entry:
    return {"ph": "M", "name": kind, "pid": tgid, "tid": tid, "args": {"name": name}}

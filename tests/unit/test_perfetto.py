"""The trace file against the definition of Chrome's Trace Event Format, written down here.

Source: "Trace Event Format" (October 2016), Google document
1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU: "JSON Array Format", "Event Descriptions", "Duration
Events", "Complete Events", "Instant Events", "Flow Events", "Metadata Events". What its viewer
takes from it: google/perfetto, src/trace_processor/importers/json/json_trace_parser_impl.cc.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.debug.perfetto import PerfettoFile, Tracks
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
    Sender,
    Signal,
)
from ckpt.errors import CkptError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Entry = dict[str, Any]
NUMBER = (int, float)
COMMON: dict[str, Any] = {"name": str, "ph": str, "pid": int, "tid": int}
TIMED = {**COMMON, "ts": NUMBER, "cat": str}
# Phase: members that it must have, then those that it may have.
SCHEMA: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "B": (TIMED, {"args": dict}),
    "E": (TIMED, {"args": dict}),
    "X": ({**TIMED, "dur": NUMBER}, {"args": dict}),
    "i": ({**TIMED, "s": str}, {"args": dict}),
    "s": ({**TIMED, "id": (int, str)}, {}),
    "f": ({**TIMED, "id": (int, str)}, {"bp": str}),
    "M": ({**COMMON, "args": dict}, {}),
}
METADATA = ("process_name", "thread_name")
SECOND = 1_000_000_000
HEAD: Entry = {"time_ns": SECOND, "tid": 7, "tgid": 7, "comm": "a"}


def check_entry(entry: Entry) -> None:
    """One object of the array has the members of its phase, of the right types and values."""
    must, may = SCHEMA[entry["ph"]]
    assert set(must) <= set(entry) <= set(must) | set(may), entry
    for key, kind in (must | may).items():
        assert key not in entry or (
            isinstance(entry[key], kind) and not isinstance(entry[key], bool)
        )
    assert entry["pid"] >= 0 and entry["tid"] >= 0
    if "ts" in entry:
        assert entry["ts"] >= 0 and entry["ts"] == round(entry["ts"], 3)
    if entry["ph"] == "X":
        assert entry["dur"] >= 0
    if entry["ph"] == "i":
        assert entry["s"] == "t"
    if entry["ph"] == "f":
        assert entry["bp"] == "e"
    if entry["ph"] == "M":
        assert entry["name"] in METADATA
        assert list(entry["args"]) == ["name"] and isinstance(entry["args"]["name"], str)


def check_lives(entries: Sequence[Entry]) -> None:
    """On each track B and E alternate, E not before its B, and none is left open."""
    began: dict[int, Entry] = {}
    for entry in entries:
        if entry["ph"] == "B":
            assert entry["tid"] not in began
            began[entry["tid"]] = entry
        elif entry["ph"] == "E":
            start = began.pop(entry["tid"])
            assert (start["name"], start["pid"]) == (entry["name"], entry["pid"])
            assert start["ts"] <= entry["ts"]
    assert not began


def check_arrows(entries: Sequence[Entry]) -> None:
    """An arrow has one start and one end of the same name and category, each bound to a slice.

    The viewer sorts by time and otherwise keeps the order of the file; an arrow is bound to the
    slice that began last on its track, so that slice comes just before it, at the same time.
    """
    starts = {entry["id"]: entry for entry in entries if entry["ph"] == "s"}
    ends = {entry["id"]: entry for entry in entries if entry["ph"] == "f"}
    assert Counter(e["ph"] for e in entries)["s"] == len(starts) == len(ends)
    assert starts.keys() == ends.keys()
    for number, start in starts.items():
        assert (start["name"], start["cat"]) == (ends[number]["name"], ends[number]["cat"])
        assert start["ts"] <= ends[number]["ts"]
    slices: dict[int, Entry] = {}
    for entry in entries:
        if entry["ph"] in "BX":
            slices[entry["tid"]] = entry
        elif entry["ph"] in "sf":
            bound = slices[entry["tid"]]
            assert (bound["ts"], bound["pid"]) == (entry["ts"], entry["pid"])


def check_named(entries: Sequence[Entry]) -> None:
    """Every track has a name before anything happens on it."""
    named: dict[str, set[int]] = {name: set() for name in METADATA}
    for entry in entries:
        if entry["ph"] == "M":
            named[entry["name"]].add(entry["tid" if entry["name"] == "thread_name" else "pid"])
        elif entry["ph"] in "iX" and not entry["name"].startswith("send "):
            assert entry["tid"] in named["thread_name"]
            assert entry["pid"] in named["process_name"]


def check_format(text: str) -> list[Entry]:
    """Check a finished file as a whole; return its entries."""
    assert text.isascii()
    entries: list[Entry] = json.loads(text)
    for entry in entries:
        check_entry(entry)
    check_lives(entries)
    check_arrows(entries)
    check_named(entries)
    return entries


def written(path: Path, events: Sequence[AnyEvent], began_ns: int = 0, pid: int = 7) -> list[Entry]:
    """Write events; return the entries of the file, which holds to the format."""
    with PerfettoFile(str(path), began_ns, pid) as file:
        for event in events:
            file.add(event)
            for entry in json.loads(path.read_text()):  # whole at any moment
                check_entry(entry)
    return check_format(path.read_text())


TIDS = st.integers(0, 4)
TEXT = st.text(max_size=8)
SIZES = st.integers(0, 2**64 - 1)
SPANS = st.integers(0, 3 * SECOND)
ARGUMENTS = st.dictionaries(TEXT, TEXT, max_size=3)


def events_of(kind: type[AnyEvent], **members: st.SearchStrategy[Any]) -> Any:
    """Events of one kind, with times and tasks that often meet."""
    head = {"time_ns": SPANS, "tid": TIDS, "tgid": TIDS, "comm": TEXT}
    return st.builds(kind, **head, **members)


SENDERS = st.none() | st.builds(Sender, tid=TIDS, tgid=TIDS, comm=TEXT)
EVENTS = st.one_of(
    events_of(Fork, child_tid=TIDS, child_tgid=TIDS),
    events_of(Exec, path=TEXT, old_tid=TIDS),
    events_of(
        Exit,
        status=st.none() | st.integers(0, 255),
        signal=st.none() | TEXT,
        has_dumped_core=st.booleans(),
        is_last=st.booleans(),
    ),
    events_of(
        Armed,
        call=TEXT,
        nr=st.integers(0, 500),
        function=TEXT,
        arguments=ARGUMENTS,
        left_ns=st.none() | SPANS,
    ),
    events_of(RestartEntered, function=TEXT, arguments=ARGUMENTS, left_ns=st.none() | SPANS),
    events_of(RestartResult, result=st.integers(-516, 5), meaning=TEXT),
    events_of(Eintr, call=TEXT, nr=st.integers(0, 500), signal=st.none() | TEXT),
    events_of(
        Signal,
        signal=TEXT,
        code=TEXT,
        source=TEXT,
        sender=SENDERS,
        to_process=st.booleans(),
        action=TEXT,
        flags=TEXT,
        waited_ns=st.none() | SPANS,
        is_fatal=st.booleans(),
    ),
    events_of(
        Altstack,
        signal=TEXT,
        action=TEXT,
        stack=SIZES,
        stack_bytes=SIZES,
        was_on_it=st.booleans(),
    ),
    events_of(
        Robust,
        futex=SIZES,
        place=TEXT,
        word=SIZES,
        has_waiters=st.booleans(),
        is_pi=st.booleans(),
        is_pending=st.booleans(),
        problem=TEXT,
    ),
    events_of(
        FutexWait,
        futex=SIZES,
        place=TEXT,
        operation=TEXT,
        began_ns=SPANS,
        lasted_ns=SPANS,
        result=st.none() | st.integers(-516, 5),
        meaning=TEXT,
        was_before=st.booleans(),
    ),
)


@given(st.lists(EVENTS, max_size=20), SPANS)
def test_any_events_hold_to_the_format(events: list[AnyEvent], began_ns: int) -> None:
    """Also events that a kernel would not send, in the order of their times."""
    tracks = Tracks(began_ns, 1)
    ordered = sorted(events, key=lambda event: event.time_ns)
    entries = [entry for event in ordered for entry in tracks.entries(event)]
    check_format(json.dumps(entries + list(tracks.end(4 * SECOND))))


def test_no_event_at_all(tmp_path: Path) -> None:
    """The file of a trace that saw nothing is an empty array."""
    assert written(tmp_path / "t", ()) == []


def test_time_is_in_microseconds_since_the_beginning(tmp_path: Path) -> None:
    """A nanosecond is a thousandth, and no digit is lost after days of uptime."""
    uptime = 10**15
    event = Eintr(**{**HEAD, "time_ns": uptime + 1_234_567}, call="read(3)", nr=0, signal="SIGINT")
    entries = written(tmp_path / "t", [event], began_ns=uptime)
    (found,) = (entry for entry in entries if entry["ph"] == "i")
    assert found["ts"] == 1234.567
    assert found["args"] == {"call": "read(3)", "nr": 0, "signal": "SIGINT"}


def test_fork_draws_an_arrow_and_names_change_with_exec(tmp_path: Path) -> None:
    """From the parent's fork to the child's life, which lasts until the child's exit."""
    child = {"tid": 8, "tgid": 8}
    entries = written(
        tmp_path / "t",
        [
            Fork(**HEAD, child_tid=8, child_tgid=8),
            Exec(**{**HEAD, **child, "time_ns": 2 * SECOND, "comm": "ls"}, path="/ls", old_tid=8),
            Exit(
                **{**HEAD, **child, "time_ns": 3 * SECOND, "comm": "ls"},
                status=0,
                signal=None,
                has_dumped_core=False,
                is_last=True,
            ),
        ],
    )
    arrow = [(e["ph"], e["tid"], e["ts"]) for e in entries if e["ph"] in "sf"]
    assert arrow == [("s", 7, 1e6), ("f", 8, 1e6)]
    life = [(e["ph"], e["ts"]) for e in entries if e["ph"] in "BE" and e["tid"] == 8]
    assert life == [("B", 1e6), ("E", 3e6)]
    for kind in METADATA:
        names = [e["args"]["name"] for e in entries if e["name"] == kind and e["tid"] == 8]
        assert names == ["a", "ls"]


def signal_from(sender: Sender) -> Signal:
    """Return a signal that was sent half a second ago."""
    return Signal(
        **HEAD,
        signal="SIGUSR1",
        code="SI_USER",
        source="kill",
        sender=sender,
        to_process=True,
        action="default",
        flags="",
        waited_ns=SECOND // 2,
        is_fatal=False,
    )


def test_signal_from_a_watched_process(tmp_path: Path) -> None:
    """From where it was sent to where it is delivered."""
    entries = written(tmp_path / "t", [signal_from(Sender(9, 7, "b"))])
    arrow = [(e["ph"], e["tid"], e["ts"]) for e in entries if e["ph"] in "sf"]
    assert arrow == [("s", 9, 5e5), ("f", 7, 1e6)]
    slices = [(e["name"], e["tid"], e["ts"], e["dur"]) for e in entries if e["ph"] == "X"]
    assert slices == [("send SIGUSR1", 9, 5e5, 0), ("signal SIGUSR1", 7, 1e6, 0)]


def test_signal_from_elsewhere(tmp_path: Path) -> None:
    """No track is made for a task that is not traced."""
    entries = written(tmp_path / "t", [signal_from(Sender(99, 99, "b"))])
    assert {entry["tid"] for entry in entries} == {7}
    (found,) = (entry for entry in entries if entry["ph"] == "i")
    assert found["args"]["sender"] == {"tid": 99, "tgid": 99, "comm": "b"}


def at(time_ns: int) -> Entry:
    """Return the head of an event at a time."""
    return {**HEAD, "time_ns": time_ns}


def armed(time_ns: int) -> Armed:
    """Return an interrupted nanosleep."""
    return Armed(**at(time_ns), call="nanosleep()", nr=35, function="f", arguments={}, left_ns=5)


def test_a_call_that_restarts_twice_is_two_slices_in_a_row(tmp_path: Path) -> None:
    """The second interruption is seen just before the result of the first restart."""
    events = (
        armed(100_000),
        RestartEntered(**at(200_000), function="f", arguments={}, left_ns=4),
        armed(300_000),
        RestartResult(**at(301_000), result=-516, meaning="interrupted once more"),
        RestartResult(**at(500_000), result=0, meaning=""),
    )
    entries = written(tmp_path / "t", events)
    slices = [(e["ts"], e["dur"], e["args"]["result"]) for e in entries if e["ph"] == "X"]
    assert slices == [(100, 200, -516), (300, 200, 0)]


def test_a_call_that_a_handler_ended_is_no_slice(tmp_path: Path) -> None:
    """It does not restart."""
    events = (
        armed(100_000),
        Eintr(**at(200_000), call="nanosleep()", nr=35, signal="SIGUSR1"),
        RestartResult(**at(300_000), result=0, meaning=""),
    )
    assert not [e for e in written(tmp_path / "t", events) if e["ph"] == "X"]


def wait_for(result: int | None, lasted_ns: int) -> FutexWait:
    """Return a futex wait since 0.1 s."""
    return FutexWait(
        **at(SECOND // 10 + lasted_ns),
        futex=0x7F0000000000,
        place="",
        operation="FUTEX_WAIT",
        began_ns=SECOND // 10,
        lasted_ns=lasted_ns,
        result=result,
        meaning="",
        was_before=False,
    )


def test_a_wait_that_was_told_of_early_is_one_slice(tmp_path: Path) -> None:
    """With its whole length."""
    entries = written(tmp_path / "t", [wait_for(None, SECOND), wait_for(0, 2 * SECOND)])
    slices = [(e["ts"], e["dur"], e["args"]["futex"]) for e in entries if e["ph"] == "X"]
    assert slices == [(1e5, 2e6, "0x7f0000000000")]


def test_a_wait_that_never_ends_lasts_until_the_trace_does() -> None:
    """It is what one looks for."""
    tracks = Tracks(0, 7)
    list(tracks.entries(wait_for(None, SECOND)))
    (found,) = (entry for entry in tracks.end(5 * SECOND) if entry["ph"] == "X")
    assert (found["ts"], found["dur"], found["args"]["result"]) == (1e5, 4.9e6, None)


def test_exec_by_another_thread_ends_its_track(tmp_path: Path) -> None:
    """It goes on under the leader's number."""
    other = Eintr(**{**HEAD, "tid": 9}, call="read(3)", nr=0, signal=None)
    entries = written(
        tmp_path / "t", [other, Exec(**at(2 * SECOND), path="/p", old_tid=9), wait_for(0, 0)]
    )
    (end,) = (entry for entry in entries if entry["ph"] == "E" and entry["tid"] == 9)
    assert end["ts"] == 2e6


KILLED = """
import itertools, sys
from ckpt.debug.perfetto import PerfettoFile
from ckpt.debug.trace_events import Eintr
with PerfettoFile(sys.argv[1], 0, 7) as file:
    for n in itertools.count():
        file.add(Eintr(time_ns=n, tid=7, tgid=7, comm="a" * 3000, call="c", nr=n, signal=None))
        if n == 100:
            print("ready", flush=True)
"""


def read_cut_off(text: str) -> list[Entry]:
    """Read an array whose end may be missing, as the viewer does: "] is optional" says the format.

    What is left of an entry that is cut off is passed over.
    """
    try:
        entries: list[Entry] = json.loads(text)
    except json.JSONDecodeError:
        whole = text.rpartition("\n")[0].removesuffix(",")
        entries = json.loads(whole + "]")
    return entries


def test_killed_at_any_moment_leaves_a_file_to_read(tmp_path: Path) -> None:
    """All that was written can be read; killed inside a write, all but the last line."""
    path = tmp_path / "t"
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        with child, child.stdout:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(signal.SIGKILL)
        entries = read_cut_off(path.read_text())
        for entry in entries:
            check_entry(entry)
        assert sum(entry["ph"] == "i" for entry in entries) >= 100


def test_cut_off_anywhere_leaves_all_but_the_last_line(tmp_path: Path) -> None:
    """As when we are killed between two pages of a write, or the disk is full."""
    path = tmp_path / "t"
    entries = written(path, [wait_for(0, 0), armed(SECOND)])
    text = path.read_text()
    for length in range(len("[\n"), len(text)):
        found = read_cut_off(text[:length])
        assert found == entries[: len(found)]
        assert len(found) >= text[:length].count("\n") - 1


@pytest.mark.parametrize("path", ["/nonexistent/file", "/", "/dev/full"])
def test_a_file_that_cannot_be_written(path: str) -> None:
    """It is said before anything is traced."""
    with pytest.raises(CkptError, match=path):
        PerfettoFile(path, 0, 7)


def test_a_pipe_cannot_be_closed_again(tmp_path: Path) -> None:
    """A FIFO with a reader: the closing bracket could not be overwritten."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(CkptError, match="cannot be written"):
            PerfettoFile(str(fifo), 0, 7)
    finally:
        os.close(reader)

"""Follows a process, or runs a command and follows it: events as they come, until it ends.

    from ckpt.debug.trace import follow
    from ckpt.host.bpf_trace import Trace, TraceOptions

    with Trace(4242, TraceOptions(children=True)) as trace:
        for event in follow(trace, 4242):
            print(event.time_ns, event.NAME, event.tid)

Nothing is stopped. `follow` waits at most a twentieth of a second between two looks into the ring.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ckpt.debug.trace_decode import Decoder, now_ns
from ckpt.errors import CaptureError, CkptError
from ckpt.host.watch import check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.debug.trace_events import AnyEvent
    from ckpt.host.bpf_trace import StillWaiting, Trace

_LOOK_EVERY_S: Final = 0.05
_WAITS_EVERY_S: Final = 0.25
_NOT_FOUND: Final = 127
_NOT_EXECUTABLE: Final = 126
"""What a shell says of a command that it cannot run."""


class Lost(msgspec.Struct, frozen=True, tag_field="event", tag="lost"):
    """So many events found no room in the ring since the last look."""

    count: int


class Command(NamedTuple):
    """A command that has been started but executes nothing yet."""

    pid: int
    release_fd: int
    """A byte into it lets the command begin; closing it first ends the command."""
    error_fd: int
    """Says why the program could not be executed (an errno, as text); nothing if it was."""


def find_process(pid: int) -> int:
    """Return `pid` if it is a process.

    Raises:
        CaptureError: there is none, or it is a thread of another process.
    """
    from ckpt.host.status import parse_fields

    where = f"pid {pid}"
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            tgid = int(parse_fields(file.read())[b"Tgid"])
    except (FileNotFoundError, ProcessLookupError) as error:
        raise CaptureError("no such process", where=where) from error
    if tgid != pid:
        hint = f"trace the process: ckpt-bpf trace {tgid}"
        raise CaptureError(f"is a thread of process {tgid}", where=where, hint=hint)
    return pid


def follow(trace: Trace, pid: int) -> Iterator[AnyEvent | Lost]:
    """Yield the events of process `pid` until it has ended, with `children` all of them.

    Signals that end a command break in between two looks (`ckpt.host.watch`).

    Raises:
        CaptureError: the process is gone already.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise CaptureError("no such process", where=f"pid {pid}") from error
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    try:
        with Decoder(trace.symbols) as decoder:
            yield from _Follower(trace, decoder).until_end(poller)
    finally:
        os.close(pidfd)


class _Follower:
    """The looks into one trace."""

    def __init__(self, trace: Trace, decoder: Decoder) -> None:
        self._trace = trace
        self._decoder = decoder
        self._lost = 0
        self._told: set[tuple[int, int]] = set()
        """(tid, began_ns) of waits that have been told of already."""
        self._next_waits_s = 0.0

    def until_end(self, poller: select.poll) -> Iterator[AnyEvent | Lost]:
        """Yield until the process is gone."""
        while True:
            has_ended = self._wait(poller)
            yield from self._look()
            if has_ended:
                return
            check()

    def _wait(self, poller: select.poll) -> bool:
        """Wait for the next look; tell whether nothing more will come."""
        if not poller.poll(_LOOK_EVERY_S * 1000):
            return False
        if not self._trace.options.children:
            return True
        self._trace.note_end()
        if not self._trace.has_processes():
            return True
        time.sleep(_LOOK_EVERY_S)
        return False

    def _look(self) -> Iterator[AnyEvent | Lost]:
        # Two CPUs may reserve their places in the ring in another order than they took the time.
        events = sorted(map(self._decoder.decode, self._trace.read()), key=lambda e: e.time_ns)
        yield from events
        lost = self._trace.lost
        if lost > self._lost:
            yield Lost(lost - self._lost)
            self._lost = lost
        if "futex" in self._trace.options.kinds and time.monotonic() >= self._next_waits_s:
            self._next_waits_s = time.monotonic() + _WAITS_EVERY_S
            yield from self._still_waiting()

    def _still_waiting(self) -> Iterator[AnyEvent]:
        """Yield each wait that is long by now, once: one that never ends is what one looks for."""
        waits: dict[tuple[int, int], StillWaiting] = {
            (wait.tid, wait.began_ns): wait for wait in self._trace.waiting()
        }
        for key, wait in waits.items():
            if key not in self._told:
                yield self._decoder.still_waiting(wait, now_ns())
        self._told = set(waits)


def start_command(argv: Sequence[str]) -> Command:
    """Start a command up to just before it executes its program, with our own signals as ever."""
    release_read, release_write = os.pipe2(os.O_CLOEXEC)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(release_write)
        _become(argv, release_read, error_write)
    os.close(release_read)
    os.close(error_write)
    return Command(pid, release_write, error_read)


def _become(argv: Sequence[str], release_fd: int, error_fd: int) -> None:
    """Execute the program in the child, once we may; never returns."""
    code = _NOT_EXECUTABLE
    try:
        for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            if signo == signal.SIGPIPE or signal.getsignal(signo) is not signal.SIG_IGN:
                signal.signal(signo, signal.SIG_DFL)
        if os.read(release_fd, 1):
            os.execvp(argv[0], list(argv))
    except OSError as error:
        os.write(error_fd, str(error.errno).encode())
        code = _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
    finally:
        os._exit(code)


def release(command: Command, argv: Sequence[str]) -> None:
    """Let a command begin.

    Raises:
        CkptError: its program cannot be executed; the child has ended and was waited for.
    """
    os.write(command.release_fd, b"x")
    os.close(command.release_fd)
    with os.fdopen(command.error_fd, "rb") as stream:
        problem = stream.read()
    if problem:
        os.waitpid(command.pid, 0)
        raise CkptError("cannot be executed", where=argv[0], errno=int(problem))


def abandon(command: Command) -> None:
    """End a command that has not begun."""
    os.close(command.release_fd)
    os.close(command.error_fd)
    os.waitpid(command.pid, 0)

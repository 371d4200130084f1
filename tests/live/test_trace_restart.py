"""`trace` and restart_syscall: told without a program on the entry to every system call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt.debug.trace_decode import Decoder
from ckpt.debug.trace_events import AnyEvent, Armed, RestartEntered, RestartResult
from ckpt.host.bpf_trace import Trace, TraceOptions

RESTART_SYSCALL = "219"
POLL = "7"
LIMIT_S = 10.0
WAITS = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
fd = int(sys.argv[1])
poll = ctypes.c_int * 2
entry = poll(fd, 1)
print("ready", flush=True)
os._exit(0 if libc.poll(ctypes.byref(entry), 1, int(sys.argv[2])) == int(sys.argv[3]) else 1)
"""


class Waiter:
    """A process in poll(2) on a pipe that we hold."""

    def __init__(self, timeout_ms: int, result: int) -> None:
        read_fd, self.write_fd = os.pipe()
        self.child = subprocess.Popen(
            [sys.executable, "-c", WAITS, str(read_fd), str(timeout_ms), str(result)],
            pass_fds=[read_fd],
            stdout=subprocess.PIPE,
        )
        os.close(read_fd)
        assert self.child.stdout is not None
        assert self.child.stdout.readline() == b"ready\n"
        self.wait_for(POLL)

    def wait_for(self, nr: str) -> None:
        """Wait until it is in this system call."""
        deadline = time.monotonic() + LIMIT_S
        path = Path(f"/proc/{self.child.pid}/syscall")
        while (found := path.read_text().split()[0]) != nr:
            assert time.monotonic() < deadline, f"in {found}, not in {nr}"
            time.sleep(0.001)

    def interrupt(self) -> None:
        """Stop it and let it go on: the call restarts."""
        os.kill(self.child.pid, signal.SIGSTOP)
        os.waitpid(self.child.pid, os.WUNTRACED)
        os.kill(self.child.pid, signal.SIGCONT)
        self.wait_for(RESTART_SYSCALL)

    def end(self) -> None:
        """Let the call end, and see that it came to what it should have."""
        os.write(self.write_fd, b"x")
        assert self.child.wait(LIMIT_S) == 0


@pytest.fixture
def waiter(request: pytest.FixtureRequest) -> Iterator[Waiter]:
    """Make a Waiter with the timeout of the test's parameter."""
    made = Waiter(request.param, 1)
    yield made
    os.close(made.write_fd)
    if made.child.poll() is None:
        made.child.kill()
    made.child.communicate()


def events_of(trace: Trace) -> list[AnyEvent]:
    """Return what was seen since the last look."""
    with Decoder(trace.symbols) as decoder:
        return [decoder.decode(record) for record in trace.read()]


ONLY = TraceOptions(("armed", "restart"))


@pytest.mark.parametrize("waiter", [60_000], indirect=True)
def test_told_while_it_waits(waiter: Waiter) -> None:
    """A restart with a deadline is seen at once, each of two."""
    with Trace(waiter.child.pid, ONLY) as trace:
        for _ in range(2):
            waiter.interrupt()
            seen = [
                type(event) for event in events_of(trace) if not isinstance(event, RestartResult)
            ]
            assert seen == [Armed, RestartEntered]
        waiter.end()
        (result,) = events_of(trace)
        assert isinstance(result, RestartResult) and result.result == 1


@pytest.mark.parametrize("waiter", [-1], indirect=True)
def test_without_a_deadline_it_is_told_at_the_end(waiter: Waiter) -> None:
    """It sets no timer, so that its end is the first that is seen of it."""
    with Trace(waiter.child.pid, ONLY) as trace:
        waiter.interrupt()
        assert [type(event) for event in events_of(trace)] == [Armed]
        waiter.end()
        assert [type(event) for event in events_of(trace)] == [RestartEntered, RestartResult]


@pytest.mark.parametrize("waiter", [60_000, -1], indirect=True)
def test_a_restart_from_before_the_trace_has_its_result(waiter: Waiter) -> None:
    """Its beginning is past; an interruption later is as any other."""
    waiter.interrupt()
    with Trace(waiter.child.pid, ONLY) as trace:
        waiter.end()
        (result,) = events_of(trace)
        assert isinstance(result, RestartResult) and result.result == 1

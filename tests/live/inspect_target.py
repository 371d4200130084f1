"""Runs tests/programs/inspect_states.c and keeps what it says."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckpt.debug.inspect_types import Inspection, ThreadReport
from tests.live.harness import Build, wait_until

READY_S = 20.0
BLOCKED = ("S", "D")


class States:
    """The running program; `said` holds its lines by first word."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        self.started_ns = time.monotonic_ns()
        self.threads: dict[str, int] = {}
        self.children: dict[str, int] = {}
        self.addresses: dict[str, int] = {}
        self.said: dict[str, list[int]] = {}
        self._read()

    def _read(self) -> None:
        assert self.process.stdout is not None
        named = {"thread": self.threads, "child": self.children, "address": self.addresses}
        for line in self.process.stdout:
            word, *rest = line.split()
            if word == "READY":
                return
            assert word != "FAILED", line
            if word in named:
                named[word][rest[0]] = int(rest[1])
            else:
                self.said[word] = [int(number) for number in rest]
        raise AssertionError("inspect_states ended before it was ready")

    def call(self, tid: int) -> list[int]:
        """Return number, arguments, sp and ip of a thread's call by /proc/TID/syscall."""
        return [int(word, 0) for word in Path(f"/proc/{tid}/syscall").read_text().split()]

    def is_settled(self) -> bool:
        """Whether everybody waits for what it is to wait for."""
        tids = [tid for kind, tid in self.threads.items() if kind != "spin"]
        tids.append(self.children["shares_futex"])
        idle = [tid for tid in os.listdir(f"/proc/{self.pid}/task") if _comm(tid) == "idle"]
        words = [_state(tid) for tid in [*map(str, tids), *idle]]
        return len(idle) == 6 and all(word in BLOCKED for word in words)

    def thread(self, look: Inspection, kind: str) -> ThreadReport:
        """Return what was found of one kind of thread."""
        found = {thread.tid: thread for thread in look.processes[0].threads}
        return found[self.threads[kind]]


def _comm(tid: str) -> str:
    return Path(f"/proc/{tid}/comm").read_text().strip()


def _state(tid: str) -> str:
    """Return the letter of a thread's state; one that has left the barrier was made ready."""
    return Path(f"/proc/{tid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@contextmanager
def running_states(build: Build) -> Iterator[States]:
    """Start the program, wait until all of it is blocked, end it (and its children) afterwards."""
    process = subprocess.Popen(
        [build.binary("inspect_states")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        states = States(process)
        wait_until("everybody waits", states.is_settled, READY_S)
        yield states
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Let the program end, which removes its semaphores; kill it if it does not."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(READY_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()

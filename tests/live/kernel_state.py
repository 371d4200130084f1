"""Runs tests/programs/kernel_state.c and keeps what it says; second sources about a process."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.live.harness import Build, wait_until

READY_S = 20.0
SYS_KCMP = 312
SYS_GET_ROBUST_LIST = 274

libc = ctypes.CDLL(None, use_errno=True)


class State:
    """A running kernel_state program; ``said`` holds its lines by first word."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        self.said: dict[str, list[list[str]]] = {}

    def read_until(self, word: str) -> list[str]:
        """Read lines until one starts with ``word``, and return its words."""
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line, f"kernel_state said no {word}: {self.said.get('FAILED')}"
            first, *words = line.split()
            self.said.setdefault(first, []).append(words)
            if first == word:
                return words

    def command(self, word: str) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def number(self, name: str) -> int:
        """Return the number after ``name``."""
        return int(self.said[name][0][0])

    def sleepers(self) -> dict[str, tuple[int, int, int, int]]:
        """Return kind to (tid, system call, clock, deadline or 0)."""
        return {
            kind: (int(tid), int(number), int(clock), int(deadline))
            for kind, tid, number, clock, deadline in self.said["sleeper"]
        }

    def tids(self) -> list[int]:
        """List the threads as /proc does."""
        return sorted(int(name) for name in os.listdir(f"/proc/{self.pid}/task"))

    def status(self, tid: int) -> dict[str, str]:
        """Parse /proc/PID/task/TID/status."""
        return parse_status(self.pid, tid)

    def stat(self, tid: int) -> list[str]:
        """Return the fields of /proc/PID/task/TID/stat; element n is field n of proc(5)."""
        text = Path(f"/proc/{self.pid}/task/{tid}/stat").read_text()
        return ["", str(tid), "", *text.rsplit(")", 1)[1].split()]


def parse_status(pid: int, tid: int) -> dict[str, str]:
    """Parse /proc/PID/task/TID/status."""
    lines = Path(f"/proc/{pid}/task/{tid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@contextmanager
def running_state(build: Build, *arguments: str, user: int = 0) -> Iterator[State]:
    """Start the program, wait until its threads sleep, and end it (by its pid) afterwards."""
    folder = tempfile.mkdtemp(prefix="kernel-state-")
    process = subprocess.Popen(
        [build.binary("kernel_state"), folder, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=user,
    )
    state = State(process)
    try:
        state.read_until("READY")
        for tid, number, _, _ in (state.sleepers() if "sleeper" in state.said else {}).values():
            wait_until(f"tid {tid} sleeps", partial(is_in_call, tid, number), READY_S)
        yield state
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        shutil.rmtree(folder)


def is_in_call(tid: int, number: int) -> bool:
    """Whether a thread is blocked in the system call of that number."""
    words = Path(f"/proc/{tid}/syscall").read_text().split()
    state = Path(f"/proc/{tid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return words[0] == str(number) and state == "S"


def kcmp(tid: int, other: int, kind: int, first: int = 0, second: int = 0) -> int:
    """Compare two kernel objects by kcmp(2); 0 means the same one."""
    result = int(libc.syscall(SYS_KCMP, tid, other, kind, first, second))
    if result < 0:
        raise OSError(ctypes.get_errno(), "kcmp")
    return result


def get_robust_list(tid: int) -> int:
    """Ask get_robust_list(2) for a thread's head."""
    head, length = ctypes.c_uint64(), ctypes.c_uint64()
    if libc.syscall(SYS_GET_ROBUST_LIST, tid, ctypes.byref(head), ctypes.byref(length)):
        raise OSError(ctypes.get_errno(), "get_robust_list")
    return head.value

"""What belongs to the process: switches, limits, timers, folders, identity, session, terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.live.harness import ALL_MODES, Build, Case, Mode, Run, Target, wait_until

CASES = [
    Case("dumpable"),
    Case("dumpable", ("1",)),
    Case("pdeath_signal"),
    Case("process_switches"),
    Case("personality"),
    Case("tsc_mode"),
    Case("cpuid_mode"),
    Case("coredump_oom"),
    Case("rlimits"),
    Case("itimers"),
    Case("posix_timers"),
    Case("cwd"),
    Case("cwd", ("deleted",)),
    Case("chroot_root"),
    Case("identity"),
    Case("identity", ("moved",)),
    Case("exe_deleted"),
    Case("brk_growth"),
    Case("clocks"),
    Case("session", ("none",)),
    Case("session", ("group",)),
    Case("session", ("session",)),
]


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_process(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("mode", [Mode.LEFT_RUNNING, Mode.RESTORED])
def test_a_stopped_process_comes_back_stopped(build: Build, mode: Mode) -> None:
    with Target(Case("stopped"), build) as target:
        target.start()
        assert target.wait_ready()
        os.kill(target.pid, signal.SIGSTOP)
        wait_until("stop", lambda: _state(target.pid) == "T", 5.0)
        if mode is Mode.RESTORED:
            target.snapshot()
            target.restore()
        else:
            target.snapshot("--leave-running")
        assert _state(target.pid) == "T"
        target.go(mode)
        os.kill(target.pid, signal.SIGCONT)
        assert target.wait_result().text == "PASS\n"


def test_left_stopped_until_told_to_continue(build: Build) -> None:
    with Target(Case("stopped"), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot("--leave-stopped")
        assert _state(target.pid) == "T"
        target.go(Mode.LEFT_RUNNING)
        os.kill(target.pid, signal.SIGCONT)
        assert target.wait_result().text == "PASS\n"


class Terminal:
    """The master side of a terminal whose session leader is a child of ours."""

    def __init__(self, pid: int, master: int) -> None:
        self.pid = pid
        self.master = master
        self.seen = b""

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def expect(self, text: bytes, limit_s: float = 20.0) -> None:
        """Read until `text` was shown."""
        deadline = time.monotonic() + limit_s
        while text not in self.seen:
            left = deadline - time.monotonic()
            readable = left > 0 and select.select([self.master], [], [], left)[0]
            if not readable:
                pytest.fail(f"terminal: expected {text!r}, shown so far: {self.seen!r}")
            self.seen += os.read(self.master, 4096)


@contextmanager
def _shell_on_terminal() -> Iterator[Terminal]:
    """Run an interactive shell with job control, as a person would have it."""
    pid, master = pty.fork()
    if pid == 0:
        os.closerange(3, 1024)  # what we inherited ourselves would lead outside of the target
        os.environ["PS1"] = "prompt% "
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    terminal = Terminal(pid, master)
    try:
        terminal.expect(b"prompt% ")
        yield terminal
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(master)


def test_terminal_signals_and_input_reach_a_restored_foreground_job(build: Build) -> None:
    """Started from one shell on a terminal, restored in the foreground of another one."""
    with Target(Case("terminal"), build) as target:
        with _shell_on_terminal() as terminal:
            terminal.type(target.command_line().encode() + b"\n")
            assert target.wait_ready()
            target.adopt(target.folder / "ready")
            target.tool("snapshot", str(target.pid), "-o", str(target.image))
            wait_until("the snapshot's kill", lambda: not target.is_running(), 5.0)
        with _shell_on_terminal() as terminal:
            terminal.type(target.tool_line("restore", str(target.image)).encode() + b"\n")
            wait_until("restored process", lambda: target.is_running(), 20.0)
            target.go(Mode.RESTORED)
            wait_until("foreground", lambda: _is_in_foreground(target.pid), 10.0)
            terminal.type(b"\x03")
            terminal.type(b"\x1a")
            wait_until("signals", lambda: (target.folder / "signals").exists(), 10.0)
            terminal.type(b"hello\n")
            terminal.expect(b"world")
            wait_until("result", lambda: (target.folder / "result").exists(), 10.0)
            assert (target.folder / "result").read_text() == "PASS\n"


def _is_in_foreground(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return fields[2] == fields[5]  # pgrp, tpgid: proc_pid_stat(5)

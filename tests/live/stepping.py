"""Run the tool under ptrace, count the system-call stops of its main thread, kill it at one.

A tracer may be traced itself: what the tool does to its target is not changed by our stops, it only
takes longer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ckpt.arch.x86_64.regs import REGS_SIZE, parse_regs
from ckpt.host import ptrace

TOOL = str(Path(sys.executable).with_name("ckpt-bpf"))
SYS_PTRACE = 101


class Run(NamedTuple):
    """How one run of the tool went."""

    calls: list[int]
    """The call at each stop, where it was asked for; entry and exit are a stop each."""
    stops: int
    exit_code: int | None
    """None: it was killed at the stop that was asked for."""
    said: str


def run_stepped(
    args: Sequence[str], kill_at: int | None = None, *, name_calls: bool = False
) -> Run:
    """Run ckpt-bpf with `args`; kill it at its system-call stop number `kill_at`."""
    # The shell waits until we trace it, and is the tool from then on.
    command = ["/bin/sh", "-c", 'read -r _; exec "$@"', "sh", TOOL, *args]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as tool:
        assert tool.stdin is not None
        assert tool.stderr is not None
        ptrace.seize(tool.pid, int(ptrace.Option.TRACESYSGOOD | ptrace.Option.TRACEEXEC))
        ptrace.interrupt(tool.pid)
        tool.stdin.write("go\n")
        tool.stdin.flush()
        run = _step(tool.pid, kill_at, name_calls)
        # The wait status has been taken from under Popen.
        tool.returncode = -signal.SIGKILL if run.exit_code is None else run.exit_code
        return run._replace(said=tool.stderr.read())


def _step(pid: int, kill_at: int | None, name_calls: bool) -> Run:
    calls: list[int] = []
    stops, counting = 0, False
    while True:
        stop = ptrace.wait_stop(pid)
        assert stop is not None
        if stop.exit_status is not None:
            return Run(calls, stops, os.waitstatus_to_exitcode(stop.exit_status), "")
        if stop.event == ptrace.Event.EXEC:
            counting = True
        elif stop.is_syscall and counting:
            if name_calls:
                regs = parse_regs(ptrace.get_regset(pid, ptrace.NT_PRSTATUS, REGS_SIZE))
                calls.append(regs.orig_rax)
            if stops == kill_at:
                _kill(pid)
                return Run(calls, stops, None, "")
            stops += 1
        # A signal would be the SIGCHLD of a helper, which the tool does not handle.
        ptrace.resume_to_syscall(pid)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    while (stop := ptrace.wait_stop(pid)) is None or stop.exit_status is None:
        pass


def choose_stops(calls: Sequence[int], early: int, late: int, at_ptrace: int) -> list[int]:
    """Return stops spread over a run: before the first ptrace call, after it, at such calls."""
    steps = [index for index, nr in enumerate(calls) if nr == SYS_PTRACE]
    first = steps[0]
    chosen = {first * i // early for i in range(early)}
    chosen |= {first + (len(calls) - first) * i // late for i in range(late)}
    chosen |= set(steps[:: max(1, len(steps) // at_ptrace)])
    return sorted(chosen)

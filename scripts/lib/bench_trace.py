"""Measure what `ckpt-bpf trace` costs the process that it follows.

A loop (scripts/bench-loops.c) runs in short rounds, in blocks: untraced, traced, untraced, traced
and so on, in one process. A block is its median round; each traced block is compared with the mean
of the untraced blocks before and after it; the figure is the median of these ratios. The loop is
held to the last CPU that we may use and the tracer, which is the real command, to the others: what
is measured is what the traced process waits for, not two programs that share a CPU. Both sides of
the futex ping-pong share the loop's CPU, so that each round trip is two switches, always.
"""

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

ATTACH_S = 30.0
ROUND_S = 0.02
ROUNDS = 12
SETTLE_S = 0.3
BLOCKS = 16
STARTED = "trace of process"
SUMMARY = re.compile(r"(\d+) events in [\d.]+ s, (\d+) lost")


class TraceError(Exception):
    """The tracer or the loop did not do its part."""


class TraceCase(NamedTuple):
    """A loop and how it is traced; without a limit it is measured for information only."""

    name: str
    loop: str
    options: tuple[str, ...]
    limit: float | None


class Overhead(NamedTuple):
    """What tracing a loop came to: traced / untraced time, with the middle half of all ratios."""

    case: TraceCase
    ratio: float
    low: float
    high: float
    round_trip_us: float
    """Of one turn of the loop, untraced."""
    events: int
    lost: int

    def __str__(self) -> str:
        spread = f"{self.low:.3f} to {self.high:.3f}"
        return (
            f"{self.case.name:32} x{self.ratio:.3f} (half of all: {spread}), "
            f"{self.round_trip_us:.2f} us a turn, {self.events} events, {self.lost} lost"
        )


TRACE_CASES = (
    TraceCase("trace: fork and exit", "fork", ("--children",), 1.05),
    TraceCase("trace: futex ping-pong", "futex", (), 1.10),
    TraceCase("trace: ping-pong, slow waits too", "futex", ("--slow", "1"), None),
)


class Loop:
    """One running bench-loops; use as a context manager."""

    def __init__(self, program: Path, kind: str, cpu: int) -> None:
        self._command = [str(program), kind]
        self._cpu = cpu
        self.turns = 0

    def __enter__(self) -> "Loop":
        self.turns = 100
        while (taken_s := self._start().round_s()) < ROUND_S / 2:
            self._end()
            self.turns = round(self.turns * min(10.0, ROUND_S / taken_s))
        return self

    def _start(self) -> "Loop":
        self._child = subprocess.Popen(
            [*self._command, str(self.turns)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        os.sched_setaffinity(self._child.pid, {self._cpu})
        self.pid = self._child.pid
        return self

    def _end(self) -> None:
        self._child.communicate()

    def __exit__(self, *error: object) -> None:
        self._end()

    def round_s(self) -> float:
        """Run one round; return what it took."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write("\n")
        line = self._child.stdout.readline()
        if not line:
            raise TraceError(f"the loop ended: exit {self._child.wait()}")
        return int(line) / 1e9

    def block_s(self) -> float:
        """Return the median of some rounds, after as many as a tracer needs to get under way."""
        settled = time.monotonic() + SETTLE_S
        while time.monotonic() < settled:
            self.round_s()
        return median(self.round_s() for _ in range(ROUNDS))


class Tracer:
    """Runs the command, and adds up what it saw."""

    def __init__(self, tool: Path, cpus: set[int]) -> None:
        self._tool = tool
        self._cpus = cpus
        self.events = 0
        self.lost = 0

    @contextmanager
    def follow(self, pid: int, options: tuple[str, ...]) -> Iterator[None]:
        """Trace a process, from when the tracer says so until the block ends."""
        command = [str(self._tool), "trace", "-v", str(pid), *options]
        with tempfile.TemporaryFile("w+") as output:
            child = subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True)
            os.sched_setaffinity(child.pid, self._cpus)
            assert child.stderr is not None
            with child.stderr:
                said = child.stderr.readline()
                try:
                    if STARTED not in said:
                        raise TraceError(said.strip() or "the tracer ended")
                    yield
                finally:
                    child.send_signal(signal.SIGINT)
                    child.wait(ATTACH_S)
            output.seek(0)
            self._add(output.read())

    def _add(self, text: str) -> None:
        found = SUMMARY.search(text)
        if not found:
            raise TraceError(f"no summary: {text[-200:]}")
        self.events += int(found[1])
        self.lost += int(found[2])


def measure_trace(case: TraceCase, tool: Path, program: Path) -> Overhead:
    """Measure one case; raises TraceError."""
    cpus = os.sched_getaffinity(0)
    cpu = max(cpus)
    tracer = Tracer(tool, (cpus - {cpu}) or cpus)
    ratios = []
    with Loop(program, case.loop, cpu) as loop:
        untraced = [loop.block_s()]
        for _ in range(BLOCKS):
            with tracer.follow(loop.pid, case.options):
                traced_s = loop.block_s()
            untraced.append(loop.block_s())
            ratios.append(2 * traced_s / (untraced[-1] + untraced[-2]))
        turn_us = median(untraced) / loop.turns * 1e6
    low, middle, high = quantiles(ratios, n=4)
    return Overhead(case, middle, low, high, turn_us, tracer.events, tracer.lost)

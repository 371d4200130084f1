"""Measure what a snapshot and a restore cost, beside what CRIU and `cp` cost.

For each case: the longest stall that a 1 ms ticker in the target saw while a snapshot left it
running, the wall time of that snapshot, then of one that kills it and of the restore, the peak
memory of the tool and the size of the image; the tool's CPU time tells how far other work on the
machine disturbed the wall times. `trace` is another kind of case: what `ckpt-bpf trace` costs the
process that it follows (bench_trace.py). Run by scripts/bench.
"""

import argparse
import ctypes
import json
import mmap
import os
import resource
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench_report import Measured, print_report, summarize
from bench_trace import TRACE_CASES, Overhead, TraceError, measure_trace

MIB = 1 << 20
READY_S = 60.0
TOOL_S = 300.0
ALIVE_S = 5.0
PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h, 6.18
BOARD = struct.Struct("=QQQQ")  # struct board of scripts/bench-target.c
BOARD_BYTES = 4096
TRACE_KIND = "trace"


class Case(NamedTuple):
    """One kind of target at one size; counts come in three sizes for a straight line."""

    kind: str
    number: int
    rounds: int


CASES = (
    Case("small", 0, 5),
    Case("memory", 64, 3),
    Case("memory", 512, 3),
    Case("memory", 2048, 2),
    *(Case("threads", n, 2) for n in (250, 500, 1000)),
    *(Case("areas", n, 2) for n in (5000, 10000, 20000)),
    *(Case("descriptors", n, 2) for n in (2500, 5000, 10000)),
)


class BenchError(Exception):
    """A measurement could not be made; the message says which and why."""


class Run(NamedTuple):
    """One run of the tool."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


class Bench:
    """The folder, the tool and the target program of one run of all cases."""

    def __init__(self, root: Path, folder: Path, target: Path) -> None:
        self.tool = root / ".venv" / "bin" / "ckpt-bpf"
        self.folder = folder
        self.target = target
        self.image = folder / "bench.ckpt"

    def run_tool(self, *args: str) -> Run:
        """Run ckpt-bpf to its end; measure it."""
        command = [str(self.tool), *args]
        log = self.folder / "tool.log"
        started = time.monotonic()
        with log.open("wb") as output:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder
            )
            status, usage = reap(child.pid, TOOL_S)
            child.returncode = status
        wall_s = time.monotonic() - started
        if status:
            text = log.read_text(errors="replace")[-4000:]
            raise BenchError(f"{' '.join(command)}: exit {status}\n{text}")
        return Run(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def copy(self, size_bytes: int) -> float:
        """Time `cp` and fsync of a file of so many bytes that lies in the page cache."""
        source, copy = self.folder / "source", self.folder / "copy"
        if not source.exists() or source.stat().st_size != size_bytes:
            write_noise(source, size_bytes)
        copy.unlink(missing_ok=True)
        os.sync()
        started = time.monotonic()
        subprocess.run(["cp", source, copy], check=True)
        fd = os.open(copy, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        wall_s = time.monotonic() - started
        copy.unlink()
        return wall_s

    def measure(self, case: Case) -> Measured:
        """Run one case: snapshots that leave it running, then one that kills, and restores."""
        with Target(self, case) as target:
            stalls: list[float] = []
            live: list[Run] = []
            copies: list[float] = []
            for _ in range(case.rounds):
                if case.kind == "memory":
                    copies.append(self.copy(case.number * MIB))
                self.image.unlink(missing_ok=True)
                os.sync()
                target.reset()
                live.append(self.snapshot(target, "--leave-running"))
                stalls.append(target.longest_stall_s())
            pairs = [self.kill_and_restore(target) for _ in range(case.rounds)]
            return Measured(
                kind=case.kind,
                number=case.number,
                stall_s=median(stalls),
                snapshot_s=median(r.wall_s for r in live),
                kill_snapshot_s=median(killed.wall_s for killed, _ in pairs),
                snapshot_cpu_s=median(r.cpu_s for r in live),
                restore_cpu_s=median(restored.cpu_s for _, restored in pairs),
                restore_s=median(restored.wall_s for _, restored in pairs),
                peak_bytes=max(run.peak_bytes for run in (*live, *sum(pairs, ()))),
                image_bytes=self.image.stat().st_size,
                copy_s=median(copies) if copies else None,
            )

    def snapshot(self, target: "Target", *options: str) -> Run:
        """Snapshot the target into the bench's image file."""
        return self.run_tool("snapshot", str(target.pid), "-o", str(self.image), *options)

    def kill_and_restore(self, target: "Target") -> tuple[Run, Run]:
        """Snapshot the target for good, bring it back, and see that it ticks."""
        self.image.unlink(missing_ok=True)
        os.sync()
        killed = self.snapshot(target)
        reap(target.pid, READY_S)
        restored = self.run_tool("restore", str(self.image), "--detach")
        target.wait_for_tick()
        return killed, restored


class Target:
    """One running bench-target; use as a context manager."""

    def __init__(self, bench: Bench, case: Case) -> None:
        board = bench.folder / "board"
        board.write_bytes(bytes(BOARD_BYTES))
        with board.open("r+b") as file:
            self._board = mmap.mmap(file.fileno(), BOARD_BYTES)
        command = [str(bench.target), str(board), case.kind, str(case.number)]
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=bench.folder,
            start_new_session=True,
        )
        child.returncode = 0  # waited for by pid: after a restore it is not this child any more
        self.pid = child.pid
        self._case = case

    def __enter__(self) -> "Target":
        deadline = time.monotonic() + READY_S
        while not self._read()[0]:
            if time.monotonic() > deadline:
                raise BenchError(f"{self._case.kind} {self._case.number}: the target is not ready")
            time.sleep(0.01)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            reap(self.pid, READY_S)
        except (ProcessLookupError, ChildProcessError):
            pass
        self._board.close()

    def _read(self) -> tuple[int, int, int, int]:
        ready, ticks, gap, reset = BOARD.unpack_from(self._board)
        return ready, ticks, gap, reset

    def wait_for_tick(self) -> None:
        """Wait until the ticker has gone round twice from now on."""
        start = self._read()[1]
        deadline = time.monotonic() + ALIVE_S
        while self._read()[1] < start + 2:
            if time.monotonic() > deadline:
                raise BenchError(f"{self._case.kind} {self._case.number}: the target does not tick")
            time.sleep(0.001)

    def reset(self) -> None:
        """Forget the longest stall so far."""
        struct.pack_into("=Q", self._board, 24, 1)
        self.wait_for_tick()

    def longest_stall_s(self) -> float:
        """Return the longest time without a tick since the reset."""
        self.wait_for_tick()
        return self._read()[2] / 1e9


def reap(pid: int, limit_s: float) -> tuple[int, resource.struct_rusage]:
    """Wait for a child; return its exit status and what it has used."""
    deadline = time.monotonic() + limit_s
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise BenchError(f"pid {pid}: no end within {limit_s:g} s")
    finally:
        os.close(pidfd)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage


def write_noise(path: Path, size_bytes: int) -> None:
    """Write a file that does not compress, in pieces so that this process stays small."""
    with path.open("wb") as file:
        for _ in range(size_bytes // MIB):
            file.write(os.urandom(MIB))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    kinds = sorted({c.kind for c in CASES} | {TRACE_KIND})
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"only these: {', '.join(kinds)}")
    parser.add_argument("--max-mib", type=int, default=2048, help="leave out larger memory cases")
    parser.add_argument("--folder", type=Path, help="where images are written (default: /var/tmp)")
    parser.add_argument("--json", action="store_true", help="print figures and verdicts as JSON")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(kinds):
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; known: {', '.join(kinds)}")
    return options


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """Return the cases that the options ask for."""
    return [
        case
        for case in CASES
        if (not options.kinds or case.kind in options.kinds)
        and (case.kind != "memory" or case.number <= options.max_mib)
    ]


def compile_program(source: Path, program: Path) -> Path:
    """Compile one of the C programs beside this script; return `program`."""
    subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source], check=True)
    return program


def measure_overheads(bench: Bench, root: Path, failures: list[str]) -> list[Overhead]:
    """Measure what a trace costs, for each of its loops."""
    loops = compile_program(root / "scripts" / "bench-loops.c", bench.folder / "bench-loops")
    overheads = []
    for case in TRACE_CASES:
        print(f"bench: {case.name}", file=sys.stderr)
        try:
            overheads.append(measure_trace(case, bench.tool, loops))
        except TraceError as error:
            failures.append(f"{case.name}: {error}")
    return overheads


def main() -> int:
    """Run the chosen cases and print the report."""
    options = parse_arguments()
    root = Path(__file__).resolve().parents[2]
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("prctl(PR_SET_CHILD_SUBREAPER)")
    folder = Path(tempfile.mkdtemp(prefix="ckpt-bench-", dir=options.folder or "/var/tmp"))
    measured: list[Measured] = []
    overheads: list[Overhead] = []
    failures: list[str] = []
    try:
        target = compile_program(root / "scripts" / "bench-target.c", folder / "bench-target")
        bench = Bench(root, folder, target)
        with Target(bench, CASES[0]) as first:  # fills the BPF cache: figures are of warm runs
            bench.snapshot(first, "--leave-running")
        for case in chosen_cases(options):
            print(f"bench: {case.kind} {case.number or ''}", file=sys.stderr)
            try:
                measured.append(bench.measure(case))
            except BenchError as error:
                failures.append(f"{case.kind} {case.number}: {error}")
        if not options.kinds or TRACE_KIND in options.kinds:
            overheads = measure_overheads(bench, root, failures)
    except BenchError as error:
        failures.append(f"first, cold snapshot: {error}")
    finally:
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps({**summarize(measured, overheads), "failures": failures}, indent=1))
    else:
        print_report(measured, overheads, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

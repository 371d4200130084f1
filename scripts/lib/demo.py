"""Snapshot, kill and restore scripts/demo-workload.c, telling what happens and checking it.

Usage: demo.py ROOT, run by scripts/demo. Exit 0 only if every check holds.
"""

import ctypes
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SLEEP_S = 5
ABSENCE_S = 2.0
TICKS_BEFORE = 8
TICKS_AFTER = 5
MAX_LATE_S = 0.05
LIMIT_S = 30.0
TOOL_S = 120.0
PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h, 6.18


class DemoError(Exception):
    """Something did not happen; the message says what, and ends the demo."""


class Workload:
    """The running workload and what it has said so far."""

    def __init__(self, folder: Path, binary: Path) -> None:
        self.folder = folder
        self._log = folder / "log"
        self._shown = 0
        with self._log.open("ab") as log:
            child = subprocess.Popen(
                [str(binary), str(SLEEP_S)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        child.returncode = 0  # waited for by pid: after the restore it is not this child any more
        self.pid = child.pid
        self.alive = True

    def lines(self) -> list[str]:
        """Return every whole line so far, and show the new ones."""
        lines = self._log.read_text().split("\n")[:-1]
        for line in lines[self._shown :]:
            print(f"      | {line}", flush=True)
        self._shown = len(lines)
        return lines

    def counts(self) -> list[int]:
        """Return the numbers that the workload has counted so far."""
        return [int(line.split()[1]) for line in self.lines() if line.startswith("count ")]

    def wait_for_counts(self, number: int) -> None:
        """Show the workload's lines until it has counted so far."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.counts()) < number:
            if time.monotonic() > deadline:
                raise DemoError(f"the workload did not count to {number}")
            time.sleep(0.02)

    def wait(self) -> int:
        """Wait for the end of the process, show its last words, return its exit code."""
        pidfd = os.pidfd_open(self.pid)
        try:
            if not select.select([pidfd], [], [], LIMIT_S)[0]:
                raise DemoError(f"pid {self.pid} does not end")
        finally:
            os.close(pidfd)
        status = os.waitpid(self.pid, 0)[1]
        self.alive = False
        self.lines()
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """End the process if it still runs."""
        if self.alive:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


class Checks:
    """Prints each check as it is made and remembers whether all held."""

    def __init__(self) -> None:
        self.failed = 0

    def check(self, holds: bool, text: str) -> None:
        """Note and print one check."""
        self.failed += not holds
        print(f"   {'ok  ' if holds else 'FAIL'} {text}", flush=True)


def run_tool(root: Path, folder: Path, *args: str) -> dict[str, Any]:
    """Show and run a ckpt-bpf command; return its JSON report."""
    print(f"   $ ckpt-bpf {shlex.join(args)}", flush=True)
    done = subprocess.run(
        [root / ".venv" / "bin" / "ckpt-bpf", *args, "--json"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TOOL_S,
    )
    if done.returncode != 0:
        raise DemoError(f"ckpt-bpf ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def show_report(report: dict[str, Any], checks: Checks) -> None:
    """Say how long the process was frozen and where each part of the image came from."""
    print(
        f"   frozen for {report['frozen_s'] * 1000:.1f} ms; all in all {report['wall_s']:.2f} s;"
        f" {report['image_bytes'] / 1024:.0f} KiB in {report['image']}"
    )
    for key, name in (("bpf", "BPF"), ("ptrace", "ptrace"), ("proc", "/proc")):
        captured = report["sources"].get(key, [])
        print(f"   by {name}: {', '.join(captured)}")
        checks.check(bool(captured), f"{name} contributed")
    for warning in report["warnings"]:
        print(f"   note: {warning}")


def has_process(pid: int) -> bool:
    """Return whether the pid is in use."""
    return Path(f"/proc/{pid}").exists()


def snapshot(root: Path, workload: Workload, checks: Checks) -> int:
    """Take the snapshot that ends the process; return how far it had counted."""
    report = run_tool(root, workload.folder, "snapshot", str(workload.pid), "-o", "demo.ckpt")
    checks.check(workload.wait() == -signal.SIGKILL, "the process was killed by its snapshot")
    show_report(report, checks)
    checks.check(not has_process(workload.pid), f"pid {workload.pid} is free")
    return len(workload.counts())


def restore(root: Path, workload: Workload, checks: Checks) -> None:
    """Bring the process back and see that it is the same one."""
    run_tool(root, workload.folder, "restore", "demo.ckpt", "--detach", "--pidfile", "pid")
    restored = int((workload.folder / "pid").read_text())
    workload.alive = restored == workload.pid
    checks.check(workload.alive, f"it came back under its pid {workload.pid}")


def check_end(workload: Workload, before: int, checks: Checks) -> None:
    """Let the workload finish and check what it has said in all."""
    (workload.folder / "finish").touch()
    status = workload.wait()
    counts = workload.counts()
    whole = counts == list(range(1, len(counts) + 1)) and len(counts) > before
    checks.check(whole, f"it counted on from {before} to {len(counts)}: no gap, no repeat")
    text = "\n".join(workload.lines())
    ended = re.search(r"nanosleep ended after ([0-9.]+) s: in full", text)
    late_s = float(ended[1]) - SLEEP_S if ended else float("inf")
    checks.check(
        0 <= late_s <= MAX_LATE_S,
        f"the sleep of {SLEEP_S} s in the middle of which it was ended {late_s * 1000:.1f} ms late,"
        " by the program's own clock",
    )
    checks.check(
        "counters: every step there" in text, "the other threads lost and repeated nothing"
    )
    checks.check(status == 0, f"it ended with exit status {status}")


def show(root: Path, folder: Path) -> int:
    """Run the demo from start to end; return the number of failed checks."""
    checks = Checks()
    binary = folder / "demo-workload"
    source = root / "scripts" / "demo-workload.c"
    subprocess.run(["gcc", "-O2", "-pthread", "-o", binary, source], check=True)
    workload = Workload(folder, binary)
    try:
        print(f"1. A program counts in five threads, pid {workload.pid}; one thread sleeps once.")
        workload.wait_for_counts(TICKS_BEFORE)
        print("2. In the middle of it, a snapshot. It ends the process, as a checkpoint does.")
        before = snapshot(root, workload, checks)
        print(f"3. For {ABSENCE_S:g} s there is only the image.")
        time.sleep(ABSENCE_S)
        print("4. The image becomes a process again.")
        restore(root, workload, checks)
        workload.wait_for_counts(before + TICKS_AFTER)
        print("5. It is told to come to an end, and what it did is checked.")
        check_end(workload, before, checks)
    finally:
        workload.kill()
    return checks.failed


def main() -> int:
    """Run the demo in a folder of its own."""
    root = Path(sys.argv[1])
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise DemoError("prctl(PR_SET_CHILD_SUBREAPER) failed")
    with tempfile.TemporaryDirectory(prefix="ckpt-demo-") as folder:
        try:
            failed = show(root, Path(folder))
        except DemoError as error:
            print(f"demo: FAILED: {error}")
            return 1
    print("demo: FAILED" if failed else "demo: all of it was checked and holds")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Start a real program, snapshot it in the middle, restore it, and read what it wrote.

Owns the life of the program and the calls of the tool. What the program's output has to say is
the business of each test. Every program runs in a folder of its own, writes to `out` there, and
goes on until it finds a file named `finish` (or until its input ends).
"""

import ctypes
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAMS = Path(__file__).with_name("programs")
TOOL = (sys.executable, "-m", "ckpt.cli")
PROGRESS_S = 30.0
TOOL_S = 60.0
POLL_S = 0.005
PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h, 6.18


class AppError(AssertionError):
    """The program or the tool did not do what the test needs; the message has the details."""


def become_subreaper() -> None:
    """Adopt restored processes, so that their ends can be waited for and their pids freed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def wait_until(what: str, condition: Callable[[], bool], limit_s: float = PROGRESS_S) -> None:
    """Poll until the condition holds; raise AppError when it does not in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AppError(f"{what}: not within {limit_s:g} s")
        time.sleep(POLL_S)


class App:
    """One running program; use as a context manager, which ends it whatever happens."""

    def __init__(
        self,
        folder: Path,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.argv = [str(a) for a in argv]
        self.out = folder / "out"
        self.err = folder / "err"
        self.image = folder / "image.ckpt"
        self._env = {**os.environ, **(env or {})}
        self._stdin = stdin
        self._pass_fds = pass_fds
        self._ended = False

    def __enter__(self) -> Self:
        become_subreaper()
        with self.out.open("ab") as out, self.err.open("ab") as err:
            started = subprocess.Popen(
                self.argv,
                cwd=self.folder,
                env=self._env,
                stdin=self._stdin,
                stdout=out,
                stderr=err,
                pass_fds=self._pass_fds,
                start_new_session=True,
            )
        self.pid = started.pid
        # From here on the process is waited for by pid: after a restore it is not Popen's child.
        started.returncode = 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._ended:
            try:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass

    def lines(self) -> list[str]:
        """Return the complete lines that the program has written so far."""
        text = self.out.read_text(errors="replace")
        return text.split("\n")[:-1]

    def has_ended(self) -> bool:
        """Return whether the process is gone or a zombie."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except FileNotFoundError:
            return True
        return stat.rpartition(")")[2].split()[0] in "ZX"

    def wait_for_lines(self, count: int) -> None:
        """Wait until the program has written so many lines; fail if it ends before."""

        def enough() -> bool:
            if len(self.lines()) >= count:
                return True
            if self.has_ended():
                raise AppError(f"{self.argv[0]} ended early: {self.describe_end()}")
            return False

        wait_until(f"{self.argv[0]}: {count} lines of output", enough)

    def describe_end(self) -> str:
        """Return what is known about a program that has ended, for a message."""
        tail = "\n".join(self.lines()[-5:])
        status = self.wait()
        return f"status {status}\n{tail}\n{self.err.read_text(errors='replace')[-4000:]}"

    def wait(self, limit_s: float = PROGRESS_S) -> int:
        """Wait for the end; return the exit code, or minus the signal that ended it."""
        pidfd = os.pidfd_open(self.pid)
        try:
            if not select.select([pidfd], [], [], limit_s)[0]:
                raise AppError(f"{self.argv[0]} pid {self.pid} did not end within {limit_s:g} s")
        finally:
            os.close(pidfd)
        status = os.waitpid(self.pid, 0)[1]
        self._ended = True
        return os.waitstatus_to_exitcode(status)

    def finish(self) -> int:
        """Tell the program to come to its end, and return its exit code."""
        (self.folder / "finish").touch()
        return self.wait()

    def tool(self, *args: str | Path) -> str:
        """Run ckpt-bpf in the program's folder; return its output; fail when it fails."""
        command = [*TOOL, *map(str, args)]
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TOOL_S,
            )
        except subprocess.TimeoutExpired as expired:
            raise AppError(f"no end after {TOOL_S:g} s: {shlex.join(command)}") from expired
        if done.returncode != 0:
            raise AppError(
                f"exit {done.returncode}: cd {self.folder} && {shlex.join(command)}\n"
                f"{done.stdout[-2000:]}{done.stderr[-6000:]}"
            )
        return done.stdout

    def snapshot(self, *options: str) -> dict[str, Any]:
        """Snapshot the program; return the tool's report. Without options it is killed by it."""
        report: dict[str, Any] = json.loads(
            self.tool("snapshot", str(self.pid), "-o", self.image, "--json", *options)
        )
        if not options:
            status = self.wait(10.0)
            self._ended = True
            if status != -signal.SIGKILL:
                raise AppError(f"the snapshot left the target with status {status}")
        return report

    def restore(self) -> None:
        """Bring the program back under the pid that it had, as our child by adoption."""
        pidfile = self.folder / "pid"
        self.tool("restore", self.image, "--detach", "--pidfile", pidfile)
        restored = int(pidfile.read_text())
        if restored != self.pid:
            raise AppError(f"pid {self.pid} came back as {restored}")
        self._ended = False

    def pass_through(self, mode: str) -> None:
        """Snapshot, and in mode "restored" bring the program back from the image."""
        if mode == "left_running":
            self.snapshot("--leave-running")
        else:
            self.snapshot()
            self.restore()

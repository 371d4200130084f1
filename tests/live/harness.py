"""Run a self-checking C program, snapshot and restore it, and collect what it found.

Owns the protocol of `tests/programs/selfcheck.h` and the life of the target; knows nothing about
pytest. `python tests/live/harness.py PROGRAM MODE [ARG...]` repeats one case by hand.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent.parent
PROGRAMS = TESTS / "programs"
CFLAGS = ("-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror")
TOOL = (sys.executable, "-m", "ckpt.cli")
NOBODY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search",
)  # fmt: skip
"""Runs a command as a user without privilege, who can reach this checkout wherever it lies."""
READY_S = 20.0
TOOL_S = 60.0
RESULT_S = 45.0
PAUSE_S = 0.3
POLL_S = 0.004
PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h, 6.18


class Mode(StrEnum):
    """What happens to the target while it waits."""

    UNTOUCHED = "untouched"
    LEFT_RUNNING = "left_running"
    RESTORED = "restored"
    THAWED = "thawed"  # frozen and let go, without an image
    VERIFIED = "verified"  # restored, and compared with its image before it ran on


ALL_MODES = (Mode.LEFT_RUNNING, Mode.RESTORED, Mode.VERIFIED)


class Case(NamedTuple):
    """One program with its arguments; `group` False makes it a session leader."""

    program: str
    args: tuple[str, ...] = ()
    own_session: bool = False

    @property
    def name(self) -> str:
        """The case's name in test ids and messages."""
        return "-".join((self.program, *self.args))


class Outcome(NamedTuple):
    """What one case came to: `verdict` is PASS, FAIL or SKIP; `text` says why."""

    verdict: str
    text: str


Run = Callable[[Case, Mode], None]


class CaseFailure(Exception):
    """The case could not be carried through; the message says at which step."""


def become_subreaper() -> None:
    """Make this process adopt, and thus able to reap, restored processes left to init."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def wait_until(what: str, condition: Callable[[], bool], limit_s: float) -> None:
    """Poll `condition` until it holds; raise CaseFailure after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise CaseFailure(f"{what}: did not happen within {limit_s:g} s")
        time.sleep(POLL_S)


class Build:
    """The compiled programs of one test run, each made when first asked for."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ckpt-programs-"))
        self.folder.chmod(0o755)
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def binary(self, program: str) -> Path:
        """Return the path of the compiled `program`, compiling it once."""
        with self._guard:
            lock = self._locks.setdefault(program, threading.Lock())
        out = self.folder / program
        with lock:
            if not out.exists():
                self._compile(PROGRAMS / f"{program}.c", out)
        return out

    def _compile(self, source: Path, out: Path) -> None:
        part = out.with_suffix(".part")
        command = ["gcc", *CFLAGS, "-o", str(part), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise CaseFailure(f"{shlex.join(command)}\n{done.stderr}")
        part.rename(out)

    def remove(self) -> None:
        """Delete the binaries."""
        shutil.rmtree(self.folder)


class Target:
    """A running program and everything done to it; use as a context manager.

    `pid` stays the same over snapshot and restore. Leaving the context ends the process and, when
    the case went well, deletes its folder.
    """

    def __init__(self, case: Case, build: Build) -> None:
        self.case = case
        self.folder = Path(tempfile.mkdtemp(prefix=f"ckpt-{case.program}-"))
        self.folder.chmod(0o777)
        self.image = self.folder / "image.ckpt"
        self.keep = False
        self.pid = 0
        self.history: list[str] = []
        self._binary = build.binary(case.program)
        self._proc: subprocess.Popen[bytes] | None = None
        self._status: int | None = None

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.end()
        if kind is None and not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, stdin: int | None = None, stdout: int | None = None) -> None:
        """Start the program; its standard streams are /dev/null and a file unless given."""
        command = [str(self._binary), str(self.folder), *self.case.args]
        self.history.append(shlex.join(command))
        with open(self.folder / "output", "wb") as output:
            self._proc = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=output if stdout is None else stdout,
                stderr=output,
                cwd=self.folder,
                start_new_session=self.case.own_session,
            )
        self.pid = self._proc.pid

    def wait_ready(self) -> bool:
        """Wait for DIR/ready; False when the program ended with a result instead."""
        ended = self._has_ended if self.pid else lambda: False  # 0: started by somebody else
        wait_until("ready", lambda: self._has("ready") or ended(), READY_S)
        return self._has("ready")

    def snapshot(self, *options: str) -> None:
        """Run `ckpt-bpf snapshot`; without --leave-running also reap the killed target."""
        self.tool("snapshot", str(self.pid), "-o", str(self.image), *options)
        if not {"--leave-running", "--leave-stopped"} & set(options):
            self.reap_killed()

    def freeze_and_thaw(self) -> None:
        """Do to the target what a snapshot does that is refused when all is frozen."""
        self._run([sys.executable, "-m", "tests.live.freeze_thaw", str(self.pid)], cwd=TESTS.parent)

    def reap_killed(self) -> None:
        """Wait for the process that a snapshot killed, so that its pid is free."""
        wait_until("the snapshot's kill", self._has_ended, 5.0)

    def restore(self, *options: str) -> None:
        """Run `ckpt-bpf restore --detach`; the process is then a child of the subreaper."""
        pidfile = self.folder / "pid"
        self.tool("restore", str(self.image), "--detach", "--pidfile", str(pidfile), *options)
        self.adopt(pidfile)

    def adopt(self, pidfile: Path) -> None:
        """Take charge of the process that `pidfile` names; it must have the target's pid."""
        pid = int(pidfile.read_text())
        if self.pid not in (0, pid):
            raise CaseFailure(f"restored as pid {pid}, expected {self.pid}")
        self.pid = pid

    def command_line(self) -> str:
        """Return the shell command that starts the program."""
        return shlex.join([str(self._binary), str(self.folder), *self.case.args])

    def tool_line(self, *args: str) -> str:
        """Return the shell command that runs ckpt-bpf."""
        return shlex.join([*TOOL, *args])

    def is_running(self) -> bool:
        """Whether the target is there, started or restored."""
        return not self._has_ended()

    def tool(self, *args: str, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run ckpt-bpf; raise CaseFailure with its messages when it does not exit with 0."""
        return self._run([*TOOL, *args], self.folder, stdout)

    def _run(
        self, command: list[str], cwd: Path, stdout: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        self.history.append(shlex.join(command))
        name = next((word for word in command if word in ("snapshot", "restore")), command[2])
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=subprocess.PIPE,
                text=True,
                timeout=TOOL_S,
                cwd=cwd,
            )
        except subprocess.TimeoutExpired as expired:
            said = f"{name}: no end after {TOOL_S:g} s\n{expired.stderr!r}"
            raise CaseFailure(said) from expired
        if done.returncode:
            said = f"{done.stdout or ''}{done.stderr}"
            raise CaseFailure(f"{name}: exit {done.returncode}\n{said}")
        return done

    def go(self, mode: Mode) -> None:
        """Tell the program to check itself."""
        part = self.folder / "go.tmp"
        part.write_text(mode)
        part.rename(self.folder / "go")

    def wait_result(self) -> Outcome:
        """Wait for DIR/result and for the process to end, and judge both."""
        wait_until("result", lambda: self._has("result") or self._has_ended(), RESULT_S)
        if not self._has("result"):
            return Outcome(
                "FAIL", f"ended without a result: {self._end_status()}\n{self._output()}"
            )
        text = (self.folder / "result").read_text(errors="replace")
        wait_until("exit after the result", self._has_ended, 10.0)
        if text == "PASS\n" and self._status != 0:
            return Outcome("FAIL", f"PASS, but then {self._end_status()}")
        verdict = {"PASS\n": "PASS"}.get(text, "SKIP" if text.startswith("SKIP: ") else "FAIL")
        return Outcome(verdict, text)

    def end(self) -> None:
        """Kill and reap the process if it still runs."""
        if self._has_ended():
            return
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        wait_until("the end of a killed target", self._has_ended, 10.0)

    def _has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _has_ended(self) -> bool:
        """Reap the process when it ended; one restored with --detach is our child by adoption."""
        if self._proc is not None:
            self._status = self._proc.poll()
            if self._status is not None:
                self._proc = None
            return self._status is not None
        if not self.pid:
            return True
        try:
            pid, raw = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return not self._runs_our_binary()
        if pid:
            self._status = os.waitstatus_to_exitcode(raw)
        return pid != 0

    def _runs_our_binary(self) -> bool:
        """Whether the pid is the target's and not, reused, somebody else's."""
        try:
            return os.readlink(f"/proc/{self.pid}/exe") == str(self._binary)
        except FileNotFoundError:
            return False

    def _end_status(self) -> str:
        return f"exit status {self._status}"

    def _output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-2000:]


def run_case(case: Case, mode: Mode, build: Build) -> Outcome:
    """Take one case from start to result. Never raises for what the tool or program did."""
    target = None
    try:
        with Target(case, build) as target:
            outcome = _carry_through(target, mode)
            target.keep = outcome.verdict == "FAIL"
    except CaseFailure as failure:
        outcome = Outcome("FAIL", str(failure))
    if outcome.verdict != "FAIL" or target is None:
        return outcome
    repeat = shlex.join([sys.executable, __file__, case.program, mode, *case.args])
    history = "\n".join(f"    {command}" for command in target.history)
    return Outcome(
        "FAIL", f"{outcome.text}\nkept: {target.folder}\nran:\n{history}\nrepeat: {repeat}"
    )


def _carry_through(target: Target, mode: Mode) -> Outcome:
    target.start()
    if not target.wait_ready():
        return target.wait_result()
    if mode is Mode.UNTOUCHED:
        time.sleep(PAUSE_S)
    elif mode is Mode.THAWED:
        target.freeze_and_thaw()
    elif mode is Mode.LEFT_RUNNING:
        target.snapshot("--leave-running")
    else:
        target.snapshot()
        time.sleep(PAUSE_S)  # the pause that the restored process must not notice
        target.restore(*(["--verify"] if mode is Mode.VERIFIED else []))
    target.go(mode)
    return target.wait_result()


def main(arguments: Sequence[str]) -> int:
    """Run one case by hand and print what came of it."""
    if len(arguments) < 2:
        print("usage: harness.py PROGRAM untouched|left_running|restored|verified|thawed [ARG...]")
        return 2
    become_subreaper()
    build = Build()
    try:
        case = Case(arguments[0], tuple(arguments[2:]))
        outcome = run_case(case, Mode(arguments[1]), build)
    finally:
        build.remove()
    print(outcome.verdict, outcome.text, sep=": ")
    return outcome.verdict == "FAIL"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

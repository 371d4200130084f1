"""Staying with a child in a terminal, with a pty, a shell that knows job control, and no restore.

An interactive bash runs an attendant (this file as a program), which runs an ordinary child: what
the user types must reach the child, and the shell must see what becomes of it.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt.host import terminal

DEADLINE_S = 20.0
ROOT = Path(__file__).resolve().parents[2]

CHILD = r"""
import os, signal, sys, time
if sys.argv[1] == "own_group":
    os.setpgid(0, 0)
elif sys.argv[1] == "own_session":
    os.setsid()
def say(word):
    os.write(1, ("<%s>" % word).encode())
def interrupted(number, frame):
    say("signal %d" % number)
for number in (signal.SIGINT, signal.SIGWINCH, signal.SIGCONT, signal.SIGUSR1):
    signal.signal(number, interrupted)
os.write(int(sys.argv[2]), b"r")
while os.getppid() and not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
say("child runs")
while True:
    word = os.read(0, 100).decode().strip()
    say("read %s" % word)
    if word == "bye":
        sys.exit(7)
    if word == "die":
        os.kill(os.getpid(), signal.SIGTERM)
"""


def attend(kind: str) -> None:
    """The attendant: start a child, hand the terminal over, let it go on, wait, end like it."""
    read_fd, write_fd = os.pipe()
    marker = Path(os.environ["MARKERS"], f"go{os.getpid()}")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, kind, str(write_fd), str(marker)], pass_fds=(write_fd,)
    )
    os.read(read_fd, 1)
    with terminal.Attendant(child.pid) as attendant:
        marker.touch()
        status = attendant.wait()
    terminal.end_like(status)


class Shell:
    """An interactive bash in a pty of its own."""

    def __init__(self, folder: Path) -> None:
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = os.environ | {
                "PS1": "prompt> ",
                "MARKERS": str(folder),
                "PYTHONPATH": str(ROOT),
                "LC_ALL": "C",
            }
            os.execve("/bin/bash", ["bash", "--norc", "--noprofile", "-i"], environment)
        self.expect("prompt>")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def run(self, kind: str) -> None:
        self.type(f"{sys.executable} {__file__} {kind}\n")
        self.expect("<child runs>")

    def expect(self, text: str) -> None:
        """Wait until the terminal shows `text`, and forget everything up to it."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} within {DEADLINE_S} s in {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def close(self) -> None:
        """Hang up: bash and its jobs end by SIGHUP."""
        os.close(self.fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    one = Shell(tmp_path)
    yield one
    one.close()


def attendant_in(folder: Path) -> int:
    """Return the pid of the attendant that has let its child go on."""
    (marker,) = folder.glob("go*")
    return int(marker.name[2:])


def wait_for_state(pid: int, state: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != state:
        assert time.monotonic() < deadline, f"{pid} is not in state {state}"
        time.sleep(0.005)


KINDS = ("own_group", "same_group", "own_session")


@pytest.mark.parametrize("kind", KINDS)
def test_keys_and_input_reach_the_child_and_its_status_the_shell(shell: Shell, kind: str) -> None:
    shell.run(kind)
    shell.type("\x03")
    shell.expect("<signal 2>")
    shell.type("hello\n")
    shell.expect("<read hello>")
    assert "<signal 2>" not in shell.seen
    shell.type("bye\n")
    shell.expect("prompt>")
    shell.type("echo status=$?\n")
    shell.expect("status=7")


@pytest.mark.parametrize("kind", ["own_group", "same_group"])
def test_stop_and_continue(shell: Shell, kind: str) -> None:
    shell.run(kind)
    for _ in range(2):
        shell.type("\x1a")
        shell.expect("Stopped")
        shell.expect("prompt>")
        shell.type("echo still=$((40+2))\n")
        shell.expect("still=42")
        shell.expect("prompt>")
        shell.type("fg\n")
        shell.expect("<signal 18>")
        shell.type("again\n")
        shell.expect("<read again>")
        assert "<signal 18>" not in shell.seen
    shell.type("bye\n")
    shell.expect("prompt>")


def test_background_child_gets_the_terminal_when_it_is_brought_to_the_front(
    shell: Shell, tmp_path: Path
) -> None:
    shell.type(f"{sys.executable} {__file__} own_group &\n")
    shell.expect("<child runs>")
    wait_for_state(attendant_in(tmp_path), "T")
    shell.type("\n")
    shell.expect("Stopped")
    shell.type("fg\n")
    shell.expect("<signal 18>")
    shell.type("front\n")
    shell.expect("<read front>")
    shell.type("bye\n")
    shell.expect("prompt>")


def test_ctrl_z_is_ignored_by_a_session_leader_as_before(shell: Shell) -> None:
    shell.run("own_session")
    shell.type("\x1a")
    shell.type("on\n")
    shell.expect("<read on>")
    shell.type("bye\n")
    shell.expect("prompt>")


def test_death_by_signal_is_seen_by_the_shell(shell: Shell) -> None:
    shell.run("own_group")
    shell.type("die\n")
    shell.expect("Terminated")
    shell.expect("prompt>")
    shell.type("echo status=$?\n")
    shell.expect("status=143")


def test_window_size_and_kill_reach_the_child(shell: Shell, tmp_path: Path) -> None:
    shell.run("own_group")
    attendant_pid = attendant_in(tmp_path)
    os.kill(attendant_pid, signal.SIGUSR1)
    shell.expect("<signal 10>")
    os.kill(attendant_pid, signal.SIGWINCH)
    shell.expect("<signal 28>")
    shell.type("bye\n")
    shell.expect("prompt>")


def test_without_a_terminal_signals_are_passed_on_and_stops_are_not_shared(tmp_path: Path) -> None:
    attendant = subprocess.Popen(
        [sys.executable, __file__, "own_group"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"MARKERS": str(tmp_path), "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert attendant.stdin is not None and attendant.stdout is not None
    assert os.read(attendant.stdout.fileno(), 100) == b"<child runs>"
    attendant.send_signal(signal.SIGINT)
    assert os.read(attendant.stdout.fileno(), 100) == b"<signal 2>"
    attendant.stdin.write(b"die\n")
    attendant.stdin.flush()
    assert os.read(attendant.stdout.fileno(), 100) == b"<read die>"
    assert attendant.wait(DEADLINE_S) == -signal.SIGTERM
    attendant.stdin.close()
    attendant.stdout.close()


@pytest.mark.parametrize(("status", "code"), [(0, 0), (7 << 8, 7), (15, 143), (0x80 | 11, 139)])
def test_exit_code(status: int, code: int) -> None:
    assert terminal.exit_code(status) == code


if __name__ == "__main__":
    attend(sys.argv[1])

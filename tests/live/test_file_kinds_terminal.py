"""A terminal's descriptors after a restore in another terminal, with bash and two ptys.

Bash opens the terminal under numbers of its own (255, saved streams, /dev/tty), puts it into raw
modes while it reads a line, and shows by what it prints whether all of them still lead there.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DEADLINE_S = 30.0
TOOL = [sys.executable, "-m", "ckpt.cli"]
SCRIPT = r"""
exec 7>&1 8</dev/tty
while read -u 8 line; do
	echo "out <$line>"
	echo "seven <$line>" >&7
done
"""


class Terminal:
    """A program in a pty of its own."""

    def __init__(self, *command: str) -> None:
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.closerange(3, 4096)
            os.environ.update(PS1="prompt> ", LC_ALL="C", TERM="dumb")
            os.execvp(command[0], command)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str) -> str:
        """Wait until the terminal shows `text`; return what came before it."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} within {DEADLINE_S} s in {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
        before, _, self.seen = self.seen.partition(text)
        return before

    def wait_for_raw(self) -> None:
        """Wait until the terminal does not echo any more."""
        deadline = time.monotonic() + DEADLINE_S
        while termios.tcgetattr(self.fd)[3] & termios.ECHO:
            assert time.monotonic() < deadline, f"still echoes: {self.seen!r}"
            time.sleep(0.005)

    def wait_status(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "image.ckpt"


@pytest.fixture
def ends() -> Iterator[list[int]]:
    """Pids to end whatever the test came to."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def move(first: Terminal, image: Path, ends: list[int]) -> Terminal:
    """Snapshot the program of one terminal and restore it in a new one."""
    ends.append(first.pid)
    run = subprocess.run(
        [*TOOL, "snapshot", str(first.pid), "-o", str(image)],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert run.returncode == 0, run.stderr
    assert first.wait_status() == -signal.SIGKILL
    os.close(first.fd)
    second = Terminal(*TOOL, "restore", str(image))
    ends.append(second.pid)
    return second


def test_every_descriptor_of_the_terminal_leads_to_the_new_one(
    tmp_path: Path, image: Path, ends: list[int]
) -> None:
    script = tmp_path / "script"
    script.write_text(SCRIPT)
    first = Terminal("bash", "--norc", str(script))
    first.type("one\n")
    first.expect("seven <one>")
    second = move(first, image, ends)
    second.type("two\n")
    second.expect("out <two>")
    second.expect("seven <two>")


def test_an_interactive_shell_goes_on_in_its_raw_modes(image: Path, ends: list[int]) -> None:
    first = Terminal("bash", "--norc", "--noprofile", "-i")
    first.expect("prompt>")
    first.type("x=41\n")
    first.expect("prompt>")
    second = move(first, image, ends)
    second.wait_for_raw()
    second.type("echo is=$((x+1))\n")
    # In the modes of a fresh terminal the kernel would echo the line, and readline once more.
    assert second.expect("is=42").count("echo is=") == 1
    second.type("exit 3\n")
    assert second.wait_status() == 3

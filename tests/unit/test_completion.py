"""The completion scripts, asked by the shells themselves."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt.commands import COMMANDS
from ckpt.commands.definitions import all_flags, read_definitions

SHELLS = ("bash", "zsh", "fish")
ASK_BASH = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_ckpt_bpf
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three scripts, as the command prints them."""
    folder = tmp_path_factory.mktemp("completion")
    found = {}
    for shell in SHELLS:
        command = [sys.executable, "-m", "ckpt.cli", "completion", shell]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[shell] = folder / ("_ckpt-bpf" if shell == "zsh" else shell)
        found[shell].write_text(done.stdout)
    return found


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with images and other things in it."""
    for name in ("12.ckpt", "13.ckpt", "with space.ckpt", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    return tmp_path


def need(shell: str) -> str:
    """Return the path of a shell; the test is not for machines without it."""
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"not run: there is no {shell} here")
    return path


def ask_bash(scripts: dict[str, Path], folder: Path, *words: str) -> list[str]:
    """Return what bash would offer for the last of `words`."""
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK_BASH, "bash", scripts["bash"], "ckpt-bpf", *words],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return sorted(filter(None, done.stdout.splitlines()))


def test_bash_loads_it(scripts: dict[str, Path]) -> None:
    ask = f'source "{scripts["bash"]}"; complete -p ckpt-bpf'
    done = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("complete -F _ckpt_bpf ckpt-bpf\n", "")


def test_bash_completes_commands_and_options(scripts: dict[str, Path], images: Path) -> None:
    assert ask_bash(scripts, images, "") == sorted(COMMANDS)
    assert ask_bash(scripts, images, "snap") == ["snapshot"]
    assert ask_bash(scripts, images, "--v") == ["--version"]
    assert ask_bash(scripts, images, "snapshot", "--leave") == [
        "--leave-running",
        "--leave-stopped",
    ]
    for command in read_definitions()[1]:
        offered = ask_bash(scripts, images, command.name, "-")
        assert offered == sorted(all_flags(command.options)), command.name


def test_bash_completes_images(scripts: dict[str, Path], images: Path) -> None:
    shown = ["12.ckpt", "13.ckpt", "folder", "with space.ckpt"]
    for words in (["show"], ["restore", "--detach"], ["diff", "12.ckpt"], ["core", "-o", "x"]):
        assert ask_bash(scripts, images, *words, "") == shown, words
    assert ask_bash(scripts, images, "verify", "13") == ["13.ckpt"]
    assert ask_bash(scripts, images, "show", "12.ckpt", "") == []
    assert ask_bash(scripts, images, "diff", "12.ckpt", "13.ckpt", "") == []


def test_bash_completes_values(scripts: dict[str, Path], images: Path) -> None:
    every = ["12.ckpt", "13.ckpt", "folder", "notes.txt", "with space.ckpt"]
    assert ask_bash(scripts, images, "snapshot", "-o", "") == every
    assert ask_bash(scripts, images, "snapshot", "--output", "=", "not") == ["notes.txt"]
    assert ask_bash(scripts, images, "snapshot", "--output", "=") == every
    assert ask_bash(scripts, images, "snapshot", "--timeout", "") == []
    assert ask_bash(scripts, images, "completion", "") == ["bash", "fish", "zsh"]
    for words in (["snapshot"], ["inspect", "--json"], ["check"], ["core", "--live"]):
        assert str(os.getpid()) in ask_bash(scripts, images, *words, ""), words
    taken = ask_bash(scripts, images, "snapshot", "--log", "=", "a", str(os.getpid()))
    assert str(os.getpid()) in taken


@pytest.fixture
def fish_home(tmp_path: Path) -> dict[str, str]:
    """An environment in which fish finds no configuration of the user's."""
    return {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}


def test_fish_completes(scripts: dict[str, Path], images: Path, fish_home: dict[str, str]) -> None:
    fish = need("fish")

    def ask(text: str) -> list[str]:
        command = f'source {scripts["fish"]}; complete -C "{text}"'
        done = subprocess.run(
            [fish, "-c", command], cwd=images, env=fish_home, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    assert set(COMMANDS) <= set(ask("ckpt-bpf "))
    assert ask("ckpt-bpf snapshot --leave") == ["--leave-running", "--leave-stopped"]
    # Names that end in .ckpt come first; fish offers the others behind them.
    assert set(ask("ckpt-bpf show ")[:3]) == {"12.ckpt", "13.ckpt", "with space.ckpt"}
    assert str(os.getpid()) in ask("ckpt-bpf snapshot ")
    assert sorted(ask("ckpt-bpf completion ")) == ["bash", "fish", "zsh"]
    assert "notes.txt" in ask("ckpt-bpf snapshot -o ")


class Terminal:
    """An interactive zsh that has loaded the script, on a pseudo-terminal."""

    LIMIT_S = 20.0

    def __init__(self, zsh: str, script: Path, folder: Path) -> None:
        environment = {**os.environ, "TERM": "dumb", "ZDOTDIR": str(folder), "HOME": str(folder)}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(zsh, [zsh, "-f", "-i"], environment)
        self.said = ""
        self.type("bindkey -e; PROMPT=; unsetopt zle_bracketed_paste menu_complete auto_menu\n")
        self.type(f"autoload -U compinit; compinit -u -D; source {script}; print rea''dy\n")
        self.wait("ready")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self, text: str) -> str:
        """Read until `text` has come; return what came before it, and drop all of it."""
        deadline = time.monotonic() + self.LIMIT_S
        while text not in self.said:
            left = deadline - time.monotonic()
            assert left > 0, f"zsh: no {text!r} in {self.said!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.said += os.read(self.fd, 65536).decode(errors="replace")
        before, _, self.said = self.said.partition(text)
        return before

    def complete(self, text: str) -> str:
        """Return the line that Tab makes of `text`."""
        self.type(f"{text}\t\x01print -r -- '[[' \x05 ']]'\n")
        self.wait("\n[[ ")
        return self.wait(" ]]")

    def close(self) -> None:
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def zsh(scripts: dict[str, Path], images: Path) -> Iterator[Terminal]:
    terminal = Terminal(need("zsh"), scripts["zsh"], images)
    yield terminal
    terminal.close()


def test_zsh_completes(zsh: Terminal) -> None:
    assert zsh.complete("ckpt-bpf snaps") == "ckpt-bpf snapshot"
    assert zsh.complete("ckpt-bpf snapshot --leave-r") == "ckpt-bpf snapshot --leave-running"
    assert zsh.complete("ckpt-bpf show 12") == "ckpt-bpf show 12.ckpt"
    assert zsh.complete("ckpt-bpf snapshot -o no") == "ckpt-bpf snapshot -o notes.txt"
    assert zsh.complete("ckpt-bpf completion fi") == "ckpt-bpf completion fish"


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_parses(scripts: dict[str, Path], shell: str) -> None:
    done = subprocess.run([need(shell), "-n", scripts[shell]], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_and_wrong_usage() -> None:
    command = [sys.executable, "-m", "ckpt.cli", "completion"]
    done = subprocess.run([*command, "bash", "--json"], capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert (said["shell"], "complete -F" in said["script"]) == ("bash", True)
    assert subprocess.run([*command, "csh"], capture_output=True).returncode == 2

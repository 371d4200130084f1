"""The man page: it says what the command line defines, and its readers have no complaint."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ckpt.commands import COMMANDS
from ckpt.commands.definitions import read_definitions

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/ckpt-bpf.8"


@pytest.fixture(scope="module")
def shown() -> str:
    """The page as a reader sees it, without emphasis."""
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-P", "cat", "-l", PAGE],
        env={"MANWIDTH": "120", "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout).replace("\u2010", "-")


def test_it_is_up_to_date() -> None:
    """`scripts/man` makes it; whoever changes an option runs that."""
    done = subprocess.run([ROOT / "scripts/man", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), "run scripts/man"


def test_every_command_and_option_is_in_it(shown: str) -> None:
    options, commands = read_definitions()
    assert [command.name for command in commands] == list(COMMANDS)
    for command in commands:
        start = re.search(rf"^   {command.name}$", shown, re.M)
        assert start, command.name
        part = re.split(r"^(?:   )?\S", shown[start.end() :], maxsplit=1, flags=re.M)[0]
        for word in command.options:
            everywhere = word.flags[0] in ("-h", "--log", "--json", "-v")
            heads = ", ".join(word.flags) + (f" {word.metavar}" if word.metavar else "")
            where = shown if everywhere else part
            assert re.search(rf"^       {re.escape(heads)}(?:$|  ?\S)", where, re.M), heads
    assert all(flag in shown for word in options for flag in word.flags)
    for title in (
        "NAME",
        "SYNOPSIS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    ):
        assert f"\n{title}\n" in shown


@pytest.mark.parametrize(
    "command",
    [
        ("groff", "-man", "-ww", "-Tutf8"),
        ("groff", "-man", "-ww", "-Tascii", "-rLL=60n"),
        ("mandoc", "-T", "lint"),
    ],
    ids=" ".join,
)
def test_nobody_complains(command: tuple[str, ...]) -> None:
    done = subprocess.run([*command, PAGE], capture_output=True, text=True)
    complaints = done.stderr + (done.stdout if "lint" in command else "")
    assert (done.returncode, complaints) == (0, "")


def test_whatis_finds_it() -> None:
    done = subprocess.run(["lexgrog", PAGE], capture_output=True, text=True)
    assert '"ckpt-bpf - checkpoint' in done.stdout, done.stderr


def test_it_is_plain_ascii_without_long_lines() -> None:
    content = PAGE.read_bytes()
    assert content.isascii()
    assert max(map(len, content.splitlines())) <= 120

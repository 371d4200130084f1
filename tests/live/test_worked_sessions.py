"""The sessions of docs/debugging.md are repeated, and print what the document says they print.

In ```console blocks, `$ ` begins a command, `> ` continues it, and what follows is its output.
Each second-level heading is a session, and a session is one bash, which begins in the root of the
project with the commands that stand before the first of these headings.

`python tests/live/test_worked_sessions.py` prints what the sessions of this machine look like.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
DOCUMENT: Final = ROOT / "docs" / "debugging.md"
SESSION_S: Final = 60.0
MARK: Final = "--- the next command ---"
OMITTED: Final = "..."
# What differs between two runs, or two machines, is compared as a name.
LOOSE: Final = (
    ("time", re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC|^ *\d+\.\d{6}\b")),
    ("quantity", re.compile(r"\b\d+(?:\.\d+)? ?(?:ns|us|ms|s|[KMG]iB|%)(?!\w)")),
    ("place in libc", re.compile(r"\blibc\.so\.6(?: \w+)?\+0x[0-9a-f]+")),
    ("offset", re.compile(r"\+0x[0-9a-f]+\b")),
    ("folder", re.compile(r"(?:/[^\s/]+)+/tmp\.\w{10}\b")),
    ("frame", re.compile(r"^#\d+")),
)
NUMBER: Final = re.compile(r"\b0x[0-9a-f]+\b|\b[0-9a-f]{12}\b|\b\d+\b")
# Longer ones stand for something: pids, addresses. The same one must be the same everywhere.
NAME: Final = re.compile(r"0x[0-9a-f]{3,}|[0-9a-f]{12}|\d{4,}")


class Command(NamedTuple):
    """One command with the output that the document shows; `line` counts from 1."""

    text: str
    output: tuple[str, ...]
    line: int


class Session(NamedTuple):
    name: str
    commands: tuple[Command, ...]


Bindings = Mapping[int, int]


def console_lines(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line, heading, text) of every line in a console block."""
    heading, inside = "", False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            inside = line == "```console"
        elif inside:
            yield number, heading, line
        elif line.startswith("## "):
            heading = line.removeprefix("## ")


def parse_commands(lines: Sequence[tuple[int, str]]) -> Iterator[Command]:
    """Yield the commands of one session; ValueError for output of no command."""
    text: list[str] = []
    output: list[str] = []
    start = 0
    for number, line in lines:
        if line.startswith("$ "):
            if text:
                yield Command("\n".join(text), tuple(output), start)
            text, output, start = [line[2:]], [], number
        elif not text:
            raise ValueError(f"line {number}: output before the first command")
        elif (line == ">" or line.startswith("> ")) and not output:
            text.append(line[2:])
        else:
            output.append(line)
    if text:
        yield Command("\n".join(text), tuple(output), start)


def read_sessions(text: str) -> list[Session]:
    """Return the sessions of a document; each begins with the commands of the first heading."""
    found: dict[str, list[tuple[int, str]]] = {}
    for number, heading, line in console_lines(text):
        found.setdefault(heading, []).append((number, line))
    before, *sessions = found.items()
    setup = tuple(parse_commands(before[1]))
    return [Session(name, setup + tuple(parse_commands(lines))) for name, lines in sessions]


def script_of(session: Session) -> str:
    """Return the session as a bash script that prints MARK after every command.

    It waits for what was started in the background, so one that does not end is found.
    """
    mark = f"printf '\\n%s\\n' '{MARK}'"
    lines = [f"{command.text}\n{mark}" for command in session.commands]
    return "\n".join([*lines, "wait"]) + "\n"


def run_session(session: Session, folder: Path) -> list[list[str]]:
    """Run a session; return what each command printed, and last what came when all were over."""
    script = folder / "session.sh"
    script.write_text(script_of(session))
    bash = subprocess.Popen(
        ["bash", str(script)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed = bash.communicate(timeout=SESSION_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(bash.pid, signal.SIGKILL)
        pytest.fail(f"{session.name}: not over after {SESSION_S:g} s:\n{bash.communicate()[0]}")
    return [part.strip("\n").splitlines() for part in printed.split(MARK)]


def loosen(line: str) -> str:
    """Return a line with names for what may differ, and single spaces."""
    for name, pattern in LOOSE:
        line = pattern.sub(f"<{name}>", line)
    return " ".join(line.split())


def numbers(line: str) -> list[tuple[int, bool]]:
    """Return the numbers of a line, each with whether it stands for something."""
    return [(to_int(text), bool(NAME.fullmatch(text))) for text in NUMBER.findall(line)]


def to_int(text: str) -> int:
    """Return the value of a decimal number, one with 0x, or an address of a maps line."""
    return int(text, 10 if text.isdecimal() and len(text) < 12 else 16)


def match_line(expected: str, real: str, bindings: Bindings) -> Bindings | None:
    """Return the bindings of documented to real numbers with those of this line; None: it differs.

    Small numbers stand for themselves. Two others never stand for the same real one.
    """
    expected, real = loosen(expected), loosen(real)
    pattern = re.escape(NUMBER.sub("#", expected))
    if expected.endswith(f" {OMITTED}"):
        pattern = re.escape(NUMBER.sub("#", expected.removesuffix(OMITTED))) + ".*"
    if not re.fullmatch(pattern, NUMBER.sub("#", real)):
        return None
    found = dict(bindings)
    for (ours, is_name), (theirs, _) in zip(numbers(expected), numbers(real), strict=False):
        if (found.setdefault(ours, theirs) if is_name else ours) != theirs:
            return None
    return found if len(set(found.values())) == len(found) else None


def match(expected: Sequence[str], real: Sequence[str], bindings: Bindings) -> Bindings | None:
    """Match lines, where `...` stands for any number of lines."""
    if not expected:
        return None if real else bindings
    if expected[0].strip() == OMITTED:
        rests = (match(expected[1:], real[skip:], bindings) for skip in range(len(real) + 1))
        return next((rest for rest in rests if rest is not None), None)
    if not real:
        return None
    found = match_line(expected[0], real[0], bindings)
    return None if found is None else match(expected[1:], real[1:], found)


def as_document(session: Session, printed: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a session as they would stand in the document."""
    for command, lines in zip(session.commands, printed, strict=False):
        yield "$ " + command.text.replace("\n", "\n> ")
        yield from lines


SESSIONS: Final = read_sessions(DOCUMENT.read_text())


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.name)
def test_session_prints_what_is_documented(session: Session, tmp_path: Path) -> None:
    *outputs, after = run_session(session, tmp_path)
    assert len(outputs) == len(session.commands), "\n".join(after)
    bindings: Bindings = {}
    for command, lines in zip(session.commands, outputs, strict=True):
        found = match(command.output, lines, bindings)
        if found is None:
            pytest.fail(
                f"docs/debugging.md line {command.line}: $ {command.text}\n"
                + "\n".join(["it printed:", *lines, "", "documented:", *command.output])
                + f"\nnumbers so far: {dict(bindings)}"
            )
        bindings = found


def test_there_are_three_sessions_with_output() -> None:
    assert len(SESSIONS) == 3
    for session in SESSIONS:
        assert sum(len(command.output) for command in session.commands) > 20, session.name


def test_a_number_means_the_same_everywhere() -> None:
    assert match(["a 1000", "b 0x3e8"], ["a 7", "b 0x7"], {}) == {1000: 7}
    assert match(["a 1000", "b 1000"], ["a 7", "b 8"], {}) is None
    assert match(["1000 waits for 2000"], ["7 waits for 7"], {}) is None
    assert match(["0x7f00 x"], ["0x55aa x"], {0x7F00: 0x55BB}) is None


def test_small_numbers_and_words_are_compared_and_quantities_are_not() -> None:
    assert match(["3 locks"], ["4 locks"], {}) is None
    assert match(["served 600"], ["served 500"], {}) is None
    assert match(["waits for"], ["waited for"], {}) is None
    assert match(["for 3.11 s, f+0x12"], ["for  20 ms, f+0x1"], {}) == {}
    assert match(["f+0x12"], ["g+0x12"], {}) is None


def test_what_is_omitted_may_be_none_or_much_but_only_there() -> None:
    assert match(["a", "...", "d"], ["a", "b", "c", "d"], {}) == {}
    assert match(["a", "...", "b"], ["a", "b"], {}) == {}
    assert match(["a", "..."], ["b"], {}) is None
    assert match(["a"], ["a", "b"], {}) is None
    assert match(["..."], [], {}) == {}
    assert match(["a 3, ..."], ["a 3, CPU 1"], {}) == {}
    assert match(["a 3, ..."], ["b 3, CPU 1"], {}) is None


def test_the_document_is_read_as_a_shell_shows_it() -> None:
    blocks = "$ cat <<E\n> x\n> E\nx\n$ true\n", "$ y\n>\n> z\n"
    text = "## A\n" + "more\n".join(f"```console\n{block}```\n" for block in blocks)
    commands = parse_commands([(line, text) for line, _, text in console_lines(text)])
    assert [*commands] == [("cat <<E\nx\nE", ("x",), 3), ("true", (), 7), ("y\n\nz", (), 11)]
    with pytest.raises(ValueError, match="output before the first command"):
        list(parse_commands([(1, "x")]))


if __name__ == "__main__":
    for one in SESSIONS:
        with tempfile.TemporaryDirectory() as scratch:
            sys.stdout.write(
                "\n".join([one.name, *as_document(one, run_session(one, Path(scratch)))])
            )
        sys.stdout.write("\n\n")

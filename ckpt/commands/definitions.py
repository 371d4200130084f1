"""The command line as data, walked out of its own parsers: for completion and the man page."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NamedTuple

from ckpt.commands.common import pid, seconds
from ckpt.commands.parser import build_parser

if TYPE_CHECKING:
    from collections.abc import Iterable


class Word(NamedTuple):
    """An option, or an argument without a name."""

    flags: tuple[str, ...]
    """`-o`, `--output`; none: its place says what it is."""
    metavar: str
    """What stands for its value; empty: it has none."""
    help: str
    kind: str
    """What its value is: none, pid, image, file, choice, command, number or text."""
    choices: tuple[str, ...] = ()
    many: bool = False
    """It takes all that follows."""


class Command(NamedTuple):
    """One command."""

    name: str
    summary: str
    description: str
    epilog: str
    usage: str
    """One line, without `usage:`."""
    words: tuple[Word, ...]

    @property
    def options(self) -> tuple[Word, ...]:
        """What begins with a dash."""
        return tuple(word for word in self.words if word.flags)

    @property
    def places(self) -> tuple[Word, ...]:
        """What does not."""
        return tuple(word for word in self.words if not word.flags)


def read_definitions() -> tuple[tuple[Word, ...], list[Command]]:
    """Return the options before a command, and every command with its own."""
    parser = build_parser()
    words: list[Word] = []
    commands: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands = [_command(name, texts[name], sub) for name, sub in action.choices.items()]
        else:
            words.append(_word(action))
    return tuple(words), commands


def _command(name: str, summary: str, parser: argparse.ArgumentParser) -> Command:
    words = tuple(_word(action) for action in parser._actions if _is_shown(action))
    description, epilog = parser.description or summary, parser.epilog or ""
    return Command(name, summary, description, epilog, _usage(parser), words)


def _is_shown(action: argparse.Action) -> bool:
    return action.help is not argparse.SUPPRESS


def _usage(parser: argparse.ArgumentParser) -> str:
    text = " ".join(parser.format_usage().split())
    return text.removeprefix("usage: ")


def _word(action: argparse.Action) -> Word:
    flags = tuple(action.option_strings)
    many = action.nargs in ("*", "+", argparse.REMAINDER)
    choices = tuple(map(str, action.choices or ()))
    kind = _kind(action, choices)
    metavar = "" if kind == "none" else _metavar(action, choices)
    return Word(flags, metavar, _help(action), kind, choices, many)


def _metavar(action: argparse.Action, choices: tuple[str, ...]) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    return "{" + ",".join(choices) + "}" if choices else action.dest.upper()


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    return text.replace("%(default)s", str(action.default))


def _kind(action: argparse.Action, choices: tuple[str, ...]) -> str:
    """Tell what a value is by its type, its placeholder and, for images, its help."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if action.nargs == 0:
        return "none"
    if choices:
        return "choice"
    if action.type is pid or {"PID", "TID"} & set(metavar.split("|")):
        return "pid"
    if action.nargs == argparse.REMAINDER or metavar == "COMMAND":
        return "command"
    if not action.option_strings and (action.help or "").startswith("image"):
        return "image"
    if metavar in _FILES:
        return "file"
    return "number" if action.type in (seconds, float, int) else "text"


_FILES = frozenset(("FILE", "CORE", "PAGE", "IMAGE", "OUTPUT", "PATH"))


def all_flags(words: Iterable[Word]) -> list[str]:
    """Return every option string of `words`."""
    return [flag for word in words for flag in word.flags]

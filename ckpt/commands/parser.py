"""The parser of the command line: what `ckpt-bpf` reads, prints as help, and completes.

A command module may define `DESCRIPTION`, a longer text than its line in `COMMANDS`; an epilog or
groups of arguments it makes itself in `add_arguments`. Help, man page (`scripts/man`) and
completion all come from here.
"""

from __future__ import annotations

import argparse
import os
from typing import Any, Final

from ckpt.commands import COMMANDS, load

VERSION: Final = "0.1.0"
SUMMARY: Final = "Checkpoint and restore running processes."


class _Formatter(argparse.HelpFormatter):
    """The usual one, but that it finds the width without importing three modules at each start."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        super().__init__(prog, width=(int(columns) if columns.isdecimal() else 80) - 2)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of it with but one of its commands."""
    parser = argparse.ArgumentParser(
        prog="ckpt-bpf", description=SUMMARY, formatter_class=_Formatter
    )
    parser.add_argument("--version", action="version", version=f"ckpt-bpf {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in [only] if only else COMMANDS:
        _add(commands, name, COMMANDS[name])
    return parser


def _add(commands: Any, name: str, text: str) -> None:
    module = load(name)
    description = getattr(module, "DESCRIPTION", text)
    parser = commands.add_parser(
        name, help=text, description=description, formatter_class=_Formatter
    )
    module.add_arguments(parser)
    parser.add_argument("--log", metavar="FILE", help="append what is done to FILE")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="say more on stderr")
    parser.set_defaults(run=module.run)

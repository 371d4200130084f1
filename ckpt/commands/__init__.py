"""The commands of ckpt-bpf: one module each, imported only when it is the one that runs.

A module `ckpt.commands.NAME` has `add_arguments(parser)` and `run(args, report)`, which returns an
exit code, prints its result, and raises `CkptError` for what went wrong. `--log`, `--json` and `-v`
belong to every command and are defined with the parser (`ckpt.cli`).
"""

from __future__ import annotations

import importlib
from typing import Any, Final

COMMANDS: Final = {
    "snapshot": "write an image of a process",
    "restore": "put a process back from its image",
    "show": "look at an image: records, memory, threads, descriptors",
    "diff": "what changed between two images of a process",
    "core": "write a core file for gdb, lldb or drgn",
    "verify": "is an image whole, and restorable here?",
    "report": "an image as one page for a browser",
    "inspect": "look at a live process or thread, stopping nothing",
    "trace": "what the kernel does with a process, as it happens",
    "check": "what this machine can do, and whether a process can be taken",
    "completion": "print a script that completes all this in a shell",
}
"""Each command with its line of help."""


def load(name: str) -> Any:
    """Return the module of a command."""
    return importlib.import_module(f"{__name__}.{name}")

"""`ckpt-bpf completion`: a script that completes this command line in a shell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import argparse

    from ckpt.debug.report import Reporter

DESCRIPTION: Final = (
    "Print a script that makes a shell complete commands, options, images and pids. It is made "
    "from the definitions of the command line itself, so it knows what this version knows."
)
_HOW: Final = (
    'bash: eval "$(ckpt-bpf completion bash)" in ~/.bashrc, or the output in '
    "/etc/bash_completion.d/ckpt-bpf; zsh: the output as _ckpt-bpf in a folder of $fpath; "
    "fish: the output in ~/.config/fish/completions/ckpt-bpf.fish"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="whose completion")
    parser.epilog = _HOW


def run(args: argparse.Namespace, _report: Reporter) -> int:
    """Run the command; return its exit code."""
    from ckpt.commands.common import to_json
    from ckpt.commands.completion_scripts import SCRIPTS
    from ckpt.commands.definitions import read_definitions

    script = SCRIPTS[args.shell](*read_definitions())
    if args.json:
        print(to_json({"shell": args.shell, "script": script}))
    else:
        sys.stdout.write(script)
    return 0

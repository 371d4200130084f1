"""Write the `ckpt-bpf` command of a development .venv so that it starts fast.

The command that pip writes goes through `site` and the editable finder of setuptools, which
together cost some 20 ms a start. The one written here knows the folders and needs neither.
Usage: make_launcher.py ROOT VENV, run by the venv's own python.
"""

import os
import sys
from pathlib import Path

TEMPLATE = """\
#!{python} -IS
# Written by scripts/lib/make_launcher.py: no `site`, no editable finder, same result.
import _signal
import sys

# A Ctrl-C before the command has begun ends it without a traceback.
if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

sys.path.insert(0, {root!r})
sys.path.extend({site_folders!r})

# msgspec prefers typing_extensions when the development tools happen to have installed it; that
# costs 10 ms and gives nothing on this Python.
sys.modules["typing_extensions"] = None
import msgspec

del sys.modules["typing_extensions"]

import ckpt

# arch/ and bpf/ lie beside ckpt/ in the tree and are imported as ckpt.arch and ckpt.bpf.
ckpt.__path__.append({root!r})

from ckpt.cli import command

command()
"""

# The kernel reads at most this much of a `#!` line (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h).
MAX_INTERPRETER_LINE = 255


def site_folders() -> list[str]:
    """Return the folders that `site` adds to the path of this venv, in order."""
    return [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]


def main() -> None:
    """Replace the venv's ckpt-bpf command in one step."""
    root, venv = sys.argv[1:]
    python = f"{venv}/bin/python"
    if any(c.isspace() for c in python) or len(python) > MAX_INTERPRETER_LINE - len("#! -IS\n"):
        print("set-up: the path of .venv does not fit a #! line; keeping pip's slower ckpt-bpf")
        return
    command = Path(venv, "bin", "ckpt-bpf")
    draft = command.with_suffix(".new")
    draft.write_text(TEMPLATE.format(python=python, root=root, site_folders=site_folders()))
    draft.chmod(0o755)
    os.replace(draft, command)


main()

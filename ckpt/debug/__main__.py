"""`python -m ckpt.debug IMAGE...`: an interpreter with images at hand, as `ckpt.debug.session`.

Exit codes: 0 done, 1 an image cannot be opened or the code raised, 2 wrong usage; `sys.exit` in the
code is obeyed.
"""

from __future__ import annotations

import argparse
import code
import os
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.session import open_session
from ckpt.debug.text import escape
from ckpt.errors import CkptError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckpt.debug.session import Session

_EPILOG: Final = """\
The first image is `img`, the others are `img2`, `img3`, ... A name that ends in .py is a script;
what follows it are its arguments (sys.argv).

  python -m ckpt.debug 4242.ckpt
  python -m ckpt.debug 4242.ckpt -c 'print(img.task.threads[0].backtrace())'
  python -m ckpt.debug before.ckpt after.ckpt look.py
"""


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ckpt.debug",
        description="Look at images in a Python interpreter.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image, - for stdin")
    parser.add_argument("-c", dest="code", metavar="CODE", help="run CODE instead of asking for it")
    own, script = _split_script(arguments)
    parsed = parser.parse_args(own)
    if script and parsed.code is not None:
        parser.error("-c and a script: give one of them")
    parsed.script = script
    return parsed


def _split_script(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return our own arguments, and the script with its arguments."""
    previous = ""
    for index, argument in enumerate(arguments):
        if argument.endswith(".py") and previous != "-c":
            return list(arguments[:index]), list(arguments[index:])
        previous = argument
    return list(arguments), []


def _names(sessions: Sequence[Session]) -> dict[str, Any]:
    names = {f"img{number or ''}": one for number, one in _numbered(sessions)}
    return {"__name__": "__main__", "__builtins__": __builtins__, **names}


def _numbered(sessions: Sequence[Session]) -> list[tuple[int, Session]]:
    return [(index + 1 if index else 0, one) for index, one in enumerate(sessions)]


def _banner(sessions: Sequence[Session], completes: bool) -> str:
    lines = []
    for number, one in _numbered(sessions):
        lines.append(f"img{number or ''} = {one!r}")
        lines += [f"  {task!r}" for task in [*one.tasks.values()][:8]]
        lines += [f"  inconsistent: {escape(str(finding))}" for finding in one.check()[:4]]
    hint = "the tab key completes, " if completes else ""
    lines.append(f"{hint}help(img) explains; try img.task.threads[0].backtrace(), img.task.fds")
    return "\n".join(lines)


def _interact(sessions: Sequence[Session], names: dict[str, Any]) -> None:
    from ckpt.debug.session_complete import install

    completes = sys.stdin.isatty() and install(names)
    console = code.InteractiveConsole(names)
    console.interact(_banner(sessions, completes), exitmsg="")


def _run(run: Callable[[], object]) -> int:
    """Run code of the user's; what it raises is told without the frames of this module."""
    try:
        run()
    except CkptError as error:
        print(f"ckpt.debug: {escape(str(error))}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {escape(error.hint)}", file=sys.stderr)
    except BrokenPipeError:
        # Nobody reads on. What is still buffered must not be tried again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [frame for frame in frames if frame.filename != __file__]
        lines = ["Traceback (most recent call last):\n", *traceback.format_list(theirs)]
        lines += traceback.format_exception_only(error)
        print("".join(lines), end="", file=sys.stderr)
    else:
        return 0
    return 1


def _work(options: argparse.Namespace, sessions: Sequence[Session]) -> int:
    names = _names(sessions)
    if options.code is not None:
        return _run(lambda: exec(compile(options.code, "<code>", "exec"), names))
    if options.script:
        sys.argv = options.script
        names["__file__"] = options.script[0]
        return _run(lambda: _run_script(options.script[0], names))
    _interact(sessions, names)
    return 0


def _run_script(name: str, names: dict[str, Any]) -> None:
    try:
        text = Path(name).read_bytes()
    except OSError as error:
        raise CkptError("script cannot be read", where=name, errno=error.errno) from error
    exec(compile(text, name, "exec"), names)


def main(arguments: Sequence[str] | None = None) -> int:
    """Open the images and run what was asked for; return the exit code."""
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    with ExitStack() as opened:
        sessions: list[Session] = []
        code = _run(lambda: _open_all(options.images, opened, sessions))
        return code or _work(options, sessions)


def _open_all(paths: Sequence[str], opened: ExitStack, sessions: list[Session]) -> None:
    for path in paths:
        sessions.append(opened.enter_context(open_session(path)))


if __name__ == "__main__":
    sys.exit(main())

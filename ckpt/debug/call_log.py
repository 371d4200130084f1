"""What a restore has its process call, written down as it happens: `restore --call-log`.

Each line is one call with its result, in the form in which `restore --dry-run` prints it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Self, TextIO

from ckpt.debug.plan_text import describe_executor, describe_step
from ckpt.debug.tape_text import TapeText
from ckpt.debug.text import escape
from ckpt.errors import CkptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckpt.objects.steps import Call, Step


class CallWriter:
    """A `ckpt.restore.CallLog` that writes to a file; use as a context manager."""

    def __init__(self, path: str) -> None:
        """Create or empty the file at `path`, for us alone: arguments may be secrets.

        Raises:
            CkptError: it cannot be written.
        """
        self._path = path
        self._file = _open(path)
        self._text = TapeText()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            # What went wrong already says more.
            if kind is None:
                raise self._failure(error) from error

    def begin(self, number: int, run: Sequence[Step]) -> None:
        """Name the steps that begin."""
        if not run:
            self._write(f"step {number} create")
        for at, step in enumerate(run):
            self._write(f"step {number + at} ({describe_executor(step)}): {describe_step(step)}")

    def made(self, tid: int, call: Call, result: int | None) -> None:
        """Write one call."""
        self._write(escape(self._text.made(tid, call, result)))

    def built(self) -> None:
        """Have all of it in the file.

        Raises:
            CkptError: it cannot be written; the process has not run yet, and will not.
        """
        try:
            self._file.flush()
        except OSError as error:
            raise self._failure(error) from error

    def _write(self, line: str) -> None:
        try:
            self._file.write(f"{line}\n")
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> CkptError:
        return CkptError("call log cannot be written", where=self._path, errno=error.errno)


def _open(path: str) -> TextIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise CkptError("call log cannot be opened", where=path, errno=error.errno) from error
    return open(fd, "w", encoding="utf-8", errors="backslashreplace")

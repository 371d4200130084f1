"""What a command tells while it works: a log file, lines for `-v`, a bar when it takes long.

Streams are given; this module chooses none. Every text is made safe here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final, TextIO

from ckpt.debug.text import escape, escape_lines
from ckpt.errors import CkptError

if TYPE_CHECKING:
    from typing import Self

_BAR_AFTER_S: Final = 1.0
_BAR_EVERY_S: Final = 0.1


class Reporter:
    """A `ckpt.host.watch.Report`; use as a context manager."""

    def __init__(
        self, log_path: str | None = None, said: TextIO | None = None, bar: TextIO | None = None
    ) -> None:
        """Append to `log_path`, write lines to `said`, draw on `bar` (a terminal).

        Raises:
            CkptError: the log cannot be opened.
        """
        self._started = time.monotonic()
        self._log = _open_log(log_path) if log_path else None
        self._said = said
        self._terminal = bar
        self._bar: Any = None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_bar()
        if self._log is not None:
            self._log.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take a step (both numbers 0), or the progress of the step that was taken last."""
        if done == total == 0:
            self._end_bar()
            self.note(what)
        elif self._terminal is not None:
            self._advance(what, done, total)

    def note(self, text: str) -> None:
        """Write one event to the log and to `said`."""
        safe = escape(text)
        if self._said is not None:
            self._said.write(f"{time.monotonic() - self._started:8.3f} {safe}\n")
            self._said.flush()
        self._write_log(safe)

    def log_traceback(self, text: str) -> None:
        """Write the traceback of an internal error."""
        safe = escape_lines(text)
        if self._said is not None:
            self._said.write(safe)
        self._write_log(safe)

    def _write_log(self, safe: str) -> None:
        if self._log is not None:
            now = time.time_ns()
            date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
            self._log.write(f"{date}.{now // 1000 % 10**6:06d}Z [{os.getpid()}] {safe}\n")

    def _advance(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._started + _BAR_AFTER_S or now < self._drawn + _BAR_EVERY_S:
            return
        self._drawn = now
        if self._bar is None:
            self._bar = _start_bar(self._terminal)
            self._bar.add_task(escape(what), total=None)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total or None)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _start_bar(stream: TextIO | None) -> Any:
    """Only work that takes long pays for rich."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}", markup=False)
    bar = Progress(
        columns,
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(file=stream),
        transient=True,
        auto_refresh=True,
    )
    bar.start()
    return bar


def _open_log(path: str) -> TextIO:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise CkptError("log cannot be opened", where=path, errno=error.errno) from error

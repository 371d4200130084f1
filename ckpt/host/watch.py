"""When a long command has to give up, and what it tells meanwhile.

Owns the clock of a command (no progress for too long, or the whole too long), the signals that end
one, and the moments at which these may break in. An exception just anywhere would leave a target
half changed (stopped, its call not yet rewound), or a C library between two states. So within a
`Watch` they wait for the next `step`, `advance` or `check`; where a command really waits (for a
disk, for a reader) it says `with released():`, and a part that must be whole says `with held():`.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Final, Self

from ckpt.errors import InterruptError, TimeLimitError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Report = Callable[[str, int, int], object]
    """(what is being done, bytes done, bytes in all); both numbers are 0 when a step begins."""

_AGAIN_S: Final = 1.0
"""An exception can get lost where Python cannot raise it (a finalizer): then it comes again."""
_GRACE_S: Final = 0.5
"""Whoever waits with a limit of their own knows more of what went wrong, and speaks first."""
_CLEANUP_S: Final = 5.0
"""After a break, cleaning up is left alone for so long: a second Ctrl-C must not cut it short."""


class _Breaks:
    """What wants to break in; there is one of it, as there is one main thread."""

    depth = 0
    pending: Exception | None = None
    raised_s = -_CLEANUP_S


class held:
    """Let no signal break into a block; what came meanwhile is raised when it ends well.

    Inside of another held block, or of a `Watch`, it is left to that one.
    """

    def __enter__(self) -> None:
        _Breaks.depth += 1

    def __exit__(self, *_: object) -> None:
        _Breaks.depth -= 1
        # While another error is on its way out there is nothing left to end.
        if _Breaks.depth == 0 and sys.exc_info()[0] is None:
            check()


class released:
    """Let signals break into a block of a held command: one that may wait long."""

    def __enter__(self) -> None:
        check()
        self._depth, _Breaks.depth = _Breaks.depth, 0

    def __exit__(self, *_: object) -> None:
        _Breaks.depth = self._depth


def check() -> None:
    """Raise what came while nothing could break in; for the safe points of a held block."""
    error, _Breaks.pending = _Breaks.pending, None
    if error is not None:
        _Breaks.raised_s = time.monotonic()
        raise error


def break_in(error: Exception) -> None:
    """Raise `error` now, or when the held block allows it; for signal handlers."""
    if time.monotonic() < _Breaks.raised_s + _CLEANUP_S:
        return
    _Breaks.pending = _Breaks.pending or error
    if not _Breaks.depth:
        check()


def end_on_signal(signo: int, _frame: FrameType | None) -> None:
    """Handle a signal that asks the command to end: clean up, then say so."""
    break_in(InterruptError(signal.Signals(signo).name))


class Watch:
    """The clock of one command; use as a context manager, in the main thread.

    In another thread, where Python has no signals, only `step` and `advance` look at the clock.
    """

    def __init__(
        self,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
        report: Report | None = None,
    ) -> None:
        self.doing = ""
        self._timeout_s = timeout_s
        self._deadline_s = deadline_s
        self._report = report
        self._started = self._last = time.monotonic()
        self._old_alarm: object = None
        self._old_interrupt: object = None
        self._has_alarm = False

    def __enter__(self) -> Self:
        _Breaks.pending, _Breaks.raised_s = None, -_CLEANUP_S
        _Breaks.depth += 1
        try:
            self._old_alarm = signal.signal(signal.SIGALRM, self._on_alarm)
        except ValueError:
            return self
        self._has_alarm = True
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._old_interrupt = signal.signal(signal.SIGINT, end_on_signal)
        self._arm()
        return self

    def __exit__(self, *_: object) -> None:
        _Breaks.depth -= 1
        if not self._has_alarm:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old_alarm or signal.SIG_DFL)  # type: ignore[arg-type]
        if self._old_interrupt is not None:
            signal.signal(signal.SIGINT, self._old_interrupt)  # type: ignore[arg-type]

    def step(self, what: str) -> None:
        """Say what begins now; raise what wants to break in, or TimeLimitError."""
        self._beat()
        self.doing = what
        if self._report is not None:
            self._report(what, 0, 0)

    def advance(self, done: int, total: int) -> None:
        """Say that bytes were done; a `ckpt.image.output.Progress`."""
        self._beat()
        if self._report is not None:
            self._report(self.doing, done, total)

    def done(self) -> None:
        """Say that all is done: what has come or comes now is too late to end anything."""
        _Breaks.pending = None
        _Breaks.raised_s = time.monotonic()
        if self._report is not None:
            self._report("done", 0, 0)

    def _beat(self) -> None:
        check()
        if not self._has_alarm:
            self._look()
        self._last = time.monotonic()

    def _arm(self) -> None:
        now = time.monotonic()
        ends = []
        if self._timeout_s is not None:
            ends.append(self._last + self._timeout_s + _GRACE_S)
        if self._deadline_s is not None:
            ends.append(self._started + self._deadline_s)
        if ends:
            signal.setitimer(signal.ITIMER_REAL, max(min(ends) - now, 0.001), _AGAIN_S)

    def _on_alarm(self, _signo: int, _frame: FrameType | None) -> None:
        try:
            self._look()
        except TimeLimitError as error:
            break_in(error)
        else:
            self._arm()

    def _look(self) -> None:
        now = time.monotonic()
        if self._deadline_s is not None and now >= self._started + self._deadline_s:
            what = f"not done within {self._deadline_s:g} s"
            raise TimeLimitError(f"{what}: {self.doing}", hint="raise --deadline")
        if self._timeout_s is not None and now >= self._last + self._timeout_s + _GRACE_S:
            what = f"no progress for {self._timeout_s:g} s"
            raise TimeLimitError(f"{what}: {self.doing}", hint="raise --timeout")

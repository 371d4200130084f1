"""The errors of the whole program: one tree, one family an arrow of the pipeline.

CkptError
├── HostError          the running kernel or our privileges lack something
├── RefusedError       the target, or the image, holds what we do not support (complete list)
├── FreezeError        the target could not be brought to a stop
├── CaptureError       a fact about the frozen target could not be read
├── ImageError         the file is not a whole image that this program understands
│   ├── ImageWriteError
│   └── ImageUntrustedError
├── PlanError          records contradict each other, or this machine cannot hold them
├── TimeLimitError     --timeout or --deadline is over
├── InterruptError     a signal asked the command to end
└── RestoreError       a step of the restore failed; everything it created is gone

Errors carry fields; their text is made from them: object first, lower case. What to do about it
stands in `hint`, which the command line prints on a line of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Finding(NamedTuple):
    """One thing that stands in the way (`blocker`), or that will differ (not `blocker`)."""

    where: str
    """The object: `tid 412 fd 7`, `area 0x7f0000000000`, `process 412`."""
    what: str
    hint: str = ""
    blocker: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class CkptError(Exception):
    """Base of everything this program raises on purpose.

    `where` names the object (`tid 412 fd 7`, a path), `what` says what is wrong with it, `hint`
    what the user can do; `errno` is the kernel's reason when there is one.
    """

    def __init__(
        self, what: str, *, where: str = "", hint: str = "", errno: int | None = None
    ) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        self.errno = errno
        super().__init__(self._text())

    def _text(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}: {os.strerror(self.errno)}" if self.errno else text


class HostError(CkptError):
    """The running kernel, the machine or our privileges lack what a command needs."""


class RefusedError(CkptError):
    """Unsupported state; `findings` is the complete list."""

    def __init__(self, what: str, findings: Sequence[Finding], *, hint: str = "") -> None:
        self.findings = tuple(findings)
        super().__init__(what, hint=hint)


class FreezeError(CkptError):
    """The target could not be stopped, or changed while it was being stopped; it runs on."""


class CaptureError(CkptError):
    """A fact about the frozen target could not be read; the target is thawed."""


class ImageError(CkptError):
    """The file at `path` is not a whole image; `offset` is where that shows, in bytes."""

    def __init__(
        self,
        what: str,
        *,
        path: str = "",
        offset: int | None = None,
        hint: str = "",
        errno: int | None = None,
    ) -> None:
        self.path = path
        self.offset = offset
        at = "" if offset is None else f"{' ' if path else ''}at byte {offset}"
        super().__init__(what, where=f"{path}{at}", hint=hint, errno=errno)


class ImageWriteError(ImageError):
    """The image could not be written; nothing stands under its final name."""


class ImageUntrustedError(ImageError):
    """The image's owner or mode does not let us run what it holds."""


class PlanError(CkptError):
    """The records do not make a process, or this machine cannot hold it."""


class RestoreError(CkptError):
    """A step of the restore failed; everything that had been created is gone again."""


class TimeLimitError(CkptError):
    """The command took too long; what it had begun is undone, the target runs as before."""


class InterruptError(CkptError):
    """A signal asked the command to end; what it had begun is undone."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"interrupted by {signal_name}")

"""Starts writing a file to disk on another thread, while its pages are still being hashed."""

from __future__ import annotations

import os
from typing import Final

from ckpt.errors import ImageWriteError

MIN_BYTES: Final = 8 << 20
"""Below this a thread costs more than it saves."""


class BackgroundFlush:
    """One fdatasync of `fd` on a thread of its own; `wait` tells how it went.

    The kernel reports a failed write-back once per descriptor, so the error must be kept: a later
    fsync would succeed.
    """

    def __init__(self, fd: int, length_bytes: int) -> None:
        """Start, unless `length_bytes` is so small that it is not worth it."""
        self._error: OSError | None = None
        self._thread = None
        if length_bytes >= MIN_BYTES:
            # Imported here: small snapshots start without it.
            import threading

            self._thread = threading.Thread(target=self._flush, args=(fd,), name="image-flush")
            self._thread.start()

    def _flush(self, fd: int) -> None:
        try:
            os.fdatasync(fd)
        except OSError as error:
            self._error = error

    def wait(self, path: str) -> None:
        """Wait for the flush; raises ImageWriteError, about `path`, when it failed."""
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            raise ImageWriteError("cannot write", path=path, errno=self._error.errno)

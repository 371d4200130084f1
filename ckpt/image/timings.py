"""Timings: what a snapshot spent its time on, in an optional frame that a restore does not need.

Facts about the taking of the image, not about the process: two images of one process differ here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

if TYPE_CHECKING:
    from ckpt.image.sink import PageSink

MAX_TIMINGS_BYTES: Final = 64 << 10
_MAX_PHASES: Final = 512

Name = Annotated[str, msgspec.Meta(max_length=64)]
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One step, and how long it took."""

    name: Name
    ns: Nanoseconds
    inside: Name = ""
    """The phase that this one is a part of; empty: it stands by itself."""


Phases = Annotated[list[Phase], msgspec.Meta(max_length=_MAX_PHASES)]


class Timings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payload of a timings frame. Phases are in their order, one right after the other."""

    before: Phases
    """While the process still ran."""
    frozen: Phases
    """From the first thread that was asked to stop until the last that was let go (or the end of
    the capture, when the process was killed)."""


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(Timings)


def encode_timings(timings: Timings) -> bytes:
    """Return the payload of a timings frame."""
    return _encoder.encode(timings)


def decode_timings(payload: bytes | memoryview) -> Timings:
    """Return what `encode_timings` was given.

    Raises:
        msgspec.MsgspecError, ValueError: it is not that.
    """
    return _decoder.decode(payload)


class Stopwatch:
    """Takes the times of a snapshot's phases, by laps; starts when it is made."""

    def __init__(self) -> None:
        self.pages: PageSink | None = None
        """Copies pages, from some moment on: how long it does is told apart in every phase."""
        self._copied_ns = 0
        self._last_ns = time.monotonic_ns()
        self._before: list[Phase] = []
        self._frozen: list[Phase] = []
        self._phases = self._before

    def lap(self, name: str) -> None:
        """End a phase, and begin the next one."""
        self._lap(name, time.monotonic_ns())

    def freeze(self, name: str, at_ns: int) -> None:
        """End the last phase before the freeze, which began at `at_ns` (CLOCK_MONOTONIC)."""
        self._lap(name, at_ns)
        self._phases = self._frozen

    def _lap(self, name: str, now_ns: int) -> None:
        self._phases.append(Phase(name, max(now_ns - self._last_ns, 0)))
        copied_ns = self.pages.copy_ns if self.pages is not None else 0
        if copied_ns > self._copied_ns:
            self._phases.append(Phase("pages", copied_ns - self._copied_ns, name))
        self._last_ns, self._copied_ns = now_ns, copied_ns

    def timings(self) -> Timings:
        """Return the phases so far."""
        return Timings(before=self._before, frozen=self._frozen)

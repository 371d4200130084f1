"""Calls about signals that must come behind a thread's last tape.

A tape ends in a trap instruction. The kernel forces its SIGTRAP through: it unblocks it, sets an
ignored SIGTRAP back to its default (`force_sig_info_to_task`), and delivers a fault that is queued
before it, although that is blocked (`dequeue_synchronous_signal`; kernel/signal.c, 6.18).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckpt.objects import siginfo
from ckpt.objects.steps import Call, Token

if TYPE_CHECKING:
    from ckpt.objects.base import Restorer

SYS_RT_SIGACTION: Final = 13


def last_dispositions_set(tgid: int) -> Token:
    """Also the disposition of SIGTRAP is set; setting it drops what is queued."""
    return Token("last_dispositions", tgid)


class LastCalls:
    """Make calls of a thread whose tapes are over, with all signals blocked."""

    def __init__(self, tid: int, calls: list[Call]) -> None:
        self.tid = tid
        self.calls = calls

    def perform(self, restorer: Restorer) -> None:
        """Make them, from stop to stop."""
        restorer.step_calls(self.tid, self.calls, "signals")

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        numbers = [call.args[0 if call.nr == SYS_RT_SIGACTION else -2] for call in self.calls]
        names = [siginfo.name_of(number) for number in numbers if isinstance(number, int)]
        return f"tid {self.tid}: set or queue {', '.join(names)}"

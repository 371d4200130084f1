"""The process that a snapshot is asked for: may it be looked at, and what is it made of.

Everything here happens while the target runs. Each refusal has its own message.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ckpt.errors import CaptureError, Finding
from ckpt.objects import modules
from ckpt.objects.base import Identities, Options, Process

if TYPE_CHECKING:
    from collections.abc import Iterable


def examine(pid: int, options: Options) -> Process:
    """Open process `pid`.

    Raises:
        CkptError: there is no such process, or it is not one that can be snapshotted.
    """
    where = f"pid {pid}"
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise CaptureError("no such process", where=where) from error
    process = Process(pid, options, Identities())
    process.pidfd = pidfd
    return process


def survey(process: Process) -> Iterable[Finding]:
    """Let every object module look at the running process."""
    found: list[Finding] = []
    for module in modules():
        if hasattr(module, "survey"):
            found += module.survey(process)
    return found


def observe_frozen(process: Process) -> None:
    """Look at the frozen process through BPF."""

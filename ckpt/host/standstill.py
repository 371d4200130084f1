"""Let go of traced threads so that they stand still: stopped as by SIGSTOP, with no tracer.

What a debugger wants to attach to. Whoever is detached goes on inside the kernel, finds the SIGSTOP
before it is back in user mode, and stops there with the others (`do_signal_stop`, kernel/signal.c).
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from ckpt.errors import RestoreError
from ckpt.host import ptrace

if TYPE_CHECKING:
    from collections.abc import Sequence

_WAIT_S: Final = 5.0
_POLL_S: Final = 0.0005


def leave_standing(tgid: int, tids: Sequence[int]) -> None:
    """Stop process `tgid` and detach `tids`, all of its threads, each of them in a ptrace stop.

    They run no instruction of user mode. From the first detach on nobody kills them when we die.

    Raises:
        RestoreError: they did not come to rest; then the process was killed, or has died.
    """
    pidfd = os.pidfd_open(tgid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        for tid in tids:
            ptrace.set_options(tid, 0)
        for tid in tids:
            ptrace.detach(tid)
        if not _come_to_rest(tgid, tids):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            raise RestoreError("did not stop, and was killed", where=f"pid {tgid}")
    except ProcessLookupError as error:
        raise RestoreError("ended while it was let go", where=f"pid {tgid}") from error
    finally:
        os.close(pidfd)


def _come_to_rest(tgid: int, tids: Sequence[int]) -> bool:
    deadline = time.monotonic() + _WAIT_S
    while not all(_read_state(tgid, tid) == b"T" for tid in tids):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _read_state(tgid: int, tid: int) -> bytes:
    try:
        with open(f"/proc/{tgid}/task/{tid}/stat", "rb") as file:
            stat = file.read()
    except FileNotFoundError as error:
        raise ProcessLookupError(f"thread {tid}") from error
    return stat[stat.rindex(b")") + 2 :][:1]

"""Stop a process as a snapshot does, look at it, and let it go: what a snapshot that is refused
only when everything is frozen does to its target.

For targets that wait on something which cannot be restored yet, and which `ckpt-bpf snapshot`
therefore refuses before it stops anything. `python -m tests.live.freeze_thaw PID`.
"""

from __future__ import annotations

import os
import sys

from ckpt import target
from ckpt.freeze import Frozen
from ckpt.host.watch import Watch
from ckpt.objects.base import Options


def freeze_and_thaw(pid: int) -> None:
    """Freeze process `pid`, read its threads, thaw it."""
    process = target.examine(pid, Options())
    try:
        with (
            Watch(process.options.timeout_s),
            target.open_observer(process) as observer,
            Frozen(process, process.options.timeout_s) as frozen,
        ):
            if observer is not None:
                target.observe_waits(process, observer)
            frozen.stop()
            target.observe_frozen(process, observer)
            target.check_complete(process)
    finally:
        os.close(process.pidfd)


if __name__ == "__main__":
    freeze_and_thaw(int(sys.argv[1]))

"""Checkpoint and restore of running Linux processes, with the sight that BPF gives.

    import ckpt

    result = ckpt.snapshot(412, "412.ckpt", ckpt.Options(leave_running=True))
    with ckpt.open_image("412.ckpt") as image:
        records = image.records
    ckpt.restore("412.ckpt", ckpt.Options(detach=True))
    look = ckpt.inspect(412)  # live, and nothing is stopped: ckpt.debug.inspect

Nothing here prints; everything that goes wrong on purpose is a `CkptError`. Both calls belong to
the main thread: they use SIGALRM, and hold SIGINT back where a target would be left half changed.
Modules are imported when they are first used, so that `import ckpt` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ckpt.debug.inspect import Inspector, inspect
    from ckpt.debug.inspect_types import Inspection
    from ckpt.errors import CkptError, Finding
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import Options
    from ckpt.restore import RestoreResult, open_image, restore
    from ckpt.snapshot import SnapshotResult, snapshot

__all__ = [
    "CkptError",
    "Finding",
    "ImageFile",
    "Inspection",
    "Inspector",
    "Options",
    "RestoreResult",
    "SnapshotResult",
    "inspect",
    "open_image",
    "restore",
    "snapshot",
]

_HOMES: Final = {
    "CkptError": "ckpt.errors",
    "Finding": "ckpt.errors",
    "ImageFile": "ckpt.image.reader",
    "Inspection": "ckpt.debug.inspect_types",
    "Inspector": "ckpt.debug.inspect",
    "Options": "ckpt.objects.base",
    "RestoreResult": "ckpt.restore",
    "SnapshotResult": "ckpt.snapshot",
    "inspect": "ckpt.debug.inspect",
    "open_image": "ckpt.restore",
    "restore": "ckpt.restore",
    "snapshot": "ckpt.snapshot",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


class _Package(ModuleType):
    """This package. `snapshot` and `restore` are functions in it, and modules below it.

    The import system sets the attribute of a package to each module that it loads below it; for
    these two names that would hide the function, so setting them does nothing.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in ("snapshot", "restore") and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

"""One module a kernel object: its record, survey, capture, finish and plan side by side.

`MODULES` is the one registry: adding a kind of object is one new file and its name here. Order
matters only where a step has no token to say so (steps keep it when nothing else orders them).
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from ckpt.objects.base import Record

MODULES = (
    "task",
    "cpu_state",
    "areas",
    "vdso",
    "mm",
    "fs",
    "files",
    "locks",
    "session",
    "dispositions",
    "signals",
    "altstack",
    "robust",
    "rseq",
    "timers",
    "itimers",
    "namespaces",
    "ipc",
    "timens",
    "creds",
    "sched",
    "numa",
    "limits",
    "prctl",
    "thread_attributes",
    "seccomp",
    "dispatch",
    "membarrier",
    "speculation",
    "cgroup",
)


def record_types() -> tuple[type[Record], ...]:
    """Return every record type, for decoding images."""
    return tuple(kind for module in modules() for kind in getattr(module, "RECORDS", ()))


@cache
def modules() -> tuple[ModuleType, ...]:
    """Import and return every object module, in registry order."""
    return tuple(importlib.import_module(f"ckpt.objects.{name}") for name in MODULES)

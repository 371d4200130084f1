"""One module a kind of open file, chosen by what the kernel says the file is, not by its name.

A kind module defines

    RECORDS: tuple[type[FileRecord], ...]
    def claims(file: OpenFile, table: Table) -> bool
    def survey(files, table) -> Iterable[Finding]      # target runs, and again when it is frozen
    def capture(files, table) -> Iterable[FileRecord]  # frozen: be quick
    def finish(captured) -> Iterable[FileRecord]       # optional: what capture returns is its own
    def plan(records: Records, build: Builder) -> Iterable[Opening]
    def settle(records: Records, placed: Placed, build: Builder) -> None   # optional, see below

`KINDS` is the registry: the first kind that claims a file has it. `settle` adds what needs the
descriptors at their numbers (watch lists, for one).
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

KINDS = (
    "external",
    "path",
    "pipe",
    "socketpair",
    "eventfd",
    "timerfd",
    "signalfd",
    "epoll",
    "device",
    "memfd",
    "folder",
    "answers",
    "regular",
    "unsupported",
)


@cache
def kinds() -> tuple[ModuleType, ...]:
    """Import and return every kind module, in registry order."""
    return tuple(importlib.import_module(f"{__name__}.{name}") for name in KINDS)

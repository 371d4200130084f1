"""eventfd: its count and whether it is a semaphore."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from ckpt.host.facts import U64
from ckpt.objects.file_kinds.common import (
    FileRecord,
    OpenFile,
    Opening,
    Table,
    find_leak,
    keep,
    set_status_flags,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.errors import Finding
    from ckpt.objects.base import Builder, Records, Restorer

_FOPS: Final = "eventfd_fops"


class EventfdFile(FileRecord, tag="file.eventfd", frozen=True, kw_only=True):
    """One struct eventfd_ctx."""

    count: U64
    is_semaphore: bool


RECORDS = (EventfdFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is an eventfd."""
    del table
    return file.is_anon(_FOPS, "[eventfd]")


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse those that another process has as well."""
    for file in files:
        yield from find_leak(file, table)


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[EventfdFile]:
    """Record the count, which only fdinfo tells without changing it."""
    for file in files:
        lines = table.fdinfo(file)
        ref, flags, owner = file.common()
        yield EventfdFile(
            ref=ref,
            flags=flags,
            owner=owner,
            count=int(lines[b"eventfd-count"][0], 16),
            is_semaphore=int(lines.get(b"eventfd-semaphore", [b"0"])[0]) != 0,
        )


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Make each anew."""
    del build
    for record in records.of(EventfdFile):
        yield Opening((record.ref,), MakeEventfd(record))


class MakeEventfd:
    """Make an eventfd with a count."""

    def __init__(self, record: EventfdFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Make it empty and add the count: the call itself takes 32 bits only."""
        record = self.record
        semaphore = os.EFD_SEMAPHORE if record.is_semaphore else 0
        fd = os.eventfd(0, semaphore | os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        keep(restorer, record.ref, fd)
        if record.count:
            os.write(fd, struct.pack("=Q", record.count))
        set_status_flags(fd, record.flags)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        kind = " semaphore" if self.record.is_semaphore else ""
        return f"make an eventfd{kind} with count {self.record.count}"

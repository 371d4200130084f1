"""signalfd: its mask. What it reads is the reader's own pending signals, so that is all."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ckpt.host.facts import U64
from ckpt.host.syscalls import syscall
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

SYS_SIGNALFD4: Final = 289
SFD_CLOEXEC: Final = 0o2000000
_FOPS: Final = "signalfd_fops"


class SignalfdFile(FileRecord, tag="file.signalfd", frozen=True, kw_only=True):
    """One struct signalfd_ctx."""

    mask: U64
    """Bit n-1 is signal n."""


RECORDS = (SignalfdFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is a signalfd."""
    del table
    return file.is_anon(_FOPS, "[signalfd]")


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Refuse those that another process has as well."""
    for file in files:
        yield from find_leak(file, table)


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[SignalfdFile]:
    """Record the mask."""
    for file in files:
        mask = int(table.fdinfo(file)[b"sigmask"][0], 16)
        ref, flags, owner = file.common()
        yield SignalfdFile(ref=ref, flags=flags, owner=owner, mask=mask)


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Make each anew."""
    del build
    for record in records.of(SignalfdFile):
        yield Opening((record.ref,), MakeSignalfd(record))


class MakeSignalfd:
    """Make a signalfd with a mask."""

    def __init__(self, record: SignalfdFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Make it here: it belongs to nobody until it is read."""
        record = self.record
        fd = syscall(SYS_SIGNALFD4, -1, struct.pack("=Q", record.mask), 8, SFD_CLOEXEC)
        keep(restorer, record.ref, fd)
        set_status_flags(fd, record.flags)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"make a signalfd with mask {self.record.mask:#x}"

"""Character devices without state of their own: null, zero, full, random, urandom and /dev/tty.

They are opened again by number: the path must be such a device, not merely have its name. /dev/tty
is the controlling terminal of whoever opens it, so the restoring command's; without one, a standard
stream of ours that is a terminal stands in, or the restore is refused.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from ckpt.errors import RestoreError
from ckpt.host.facts import U64
from ckpt.objects.file_kinds.common import (
    SETTABLE_FLAGS,
    FileRecord,
    OpenFile,
    Opening,
    RawPath,
    Table,
    keep,
    printable,
    reopen,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ckpt.errors import Finding
    from ckpt.objects.base import Builder, Records, Restorer

DEV_TTY: Final = os.makedev(5, 0)
NAMES: Final = {
    os.makedev(1, 3): b"/dev/null",
    os.makedev(1, 5): b"/dev/zero",
    os.makedev(1, 7): b"/dev/full",
    os.makedev(1, 8): b"/dev/random",
    os.makedev(1, 9): b"/dev/urandom",
    DEV_TTY: b"/dev/tty",
}
"""`Documentation/admin-guide/devices.txt`"""

_OPEN_FLAGS: Final = os.O_ACCMODE | SETTABLE_FLAGS | os.O_DSYNC | os.O_SYNC


class DeviceFile(FileRecord, tag="file.device", frozen=True, kw_only=True):
    """An open device that keeps nothing about who opened it."""

    path: RawPath
    rdev: U64


RECORDS = (DeviceFile,)


def claims(file: OpenFile, table: Table) -> bool:
    """Tell whether it is one of the devices of `NAMES`."""
    del table
    return stat.S_ISCHR(file.view.mode) and file.view.rdev in NAMES


def survey(files: Sequence[OpenFile], table: Table) -> Iterable[Finding]:
    """Yield nothing: all of these can be opened again."""
    del files, table
    return ()


def capture(files: Sequence[OpenFile], table: Table) -> Iterable[DeviceFile]:
    """Record the device's number, and the path it was opened by."""
    for file in files:
        ref, flags, owner = file.common()
        path = file.link(table)
        yield DeviceFile(ref=ref, flags=flags, owner=owner, path=path, rdev=file.view.rdev)


def plan(records: Records, build: Builder) -> Iterable[Opening]:
    """Open each device again."""
    for record in records.of(DeviceFile):
        if record.rdev not in NAMES:
            build.refuse(f"device {record.rdev:#x}", "the image names a device that has a state")
        yield Opening((record.ref,), OpenDevice(record))


class OpenDevice:
    """Open a device by its recorded path, else by its usual one."""

    def __init__(self, record: DeviceFile) -> None:
        self.record = record

    def perform(self, restorer: Restorer) -> None:
        """Open it, checked by device number."""
        record = self.record
        paths = dict.fromkeys((record.path, NAMES.get(record.rdev, record.path)))
        for path in paths:
            fd = self._open(path)
            if fd is not None:
                keep(restorer, record.ref, fd)
                return
        stand_in = [s for s in (0, 1, 2) if record.rdev == DEV_TTY and os.isatty(s)]
        if not stand_in:
            what = "there is no such device here any more"
            hint = "restore from a terminal" if record.rdev == DEV_TTY else ""
            raise RestoreError(what, where=printable(record.path), hint=hint)
        keep(restorer, record.ref, reopen(stand_in[0], record.flags & _OPEN_FLAGS))

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"open {printable(self.record.path)}"

    def _open(self, path: bytes) -> int | None:
        flags = (self.record.flags & _OPEN_FLAGS) | os.O_CLOEXEC | os.O_NOCTTY
        try:
            if os.stat(path).st_rdev != self.record.rdev:
                return None
            fd = os.open(path, flags)
        except OSError:
            return None
        if os.fstat(fd).st_rdev == self.record.rdev:
            return fd
        os.close(fd)
        return None

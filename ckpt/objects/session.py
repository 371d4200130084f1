"""Session, process group and controlling terminal.

A process that led its session leads a new one; one that led its group leads a group in the session
of the restoring command; any other stays in the command's group, which it is born into, so that
Ctrl-C and Ctrl-Z reach it as they reach the command. Which group has the terminal's foreground is
not the process's own state: `ckpt.host.terminal` hands it over, as a shell does.

A session leader asks for its terminal back on the descriptors that led to it. That works when the
terminal they lead to now is nobody's; the terminal of the user's shell is its own and is not taken.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.objects.base import Record
from ckpt.objects.steps import Call, Expect, born, fds_placed, session_set

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Builder, Process, ProcessRecord, Records

SYS_IOCTL: Final = 16
SYS_GETPID: Final = 39
SYS_SETPGID: Final = 109
SYS_SETSID: Final = 112

TIOCSCTTY: Final = 0x540E
"""include/uapi/asm-generic/ioctls.h, 6.18."""

_MAX_TRIES: Final = 3


class SessionRecord(Record, frozen=True, kw_only=True, tag="session"):
    """Where a process stands among sessions and groups."""

    tgid: int
    pgid: int
    sid: int
    tty: int
    """Device number of the controlling terminal, 0 when there is none."""
    is_foreground: bool
    """Its group had the terminal's foreground."""
    tty_fds: list[int]
    """Descriptors of the process that lead to its controlling terminal."""


RECORDS = (SessionRecord,)


class Raw(NamedTuple):
    """Fields 5 to 8 of /proc/PID/stat."""

    pgid: int
    sid: int
    tty: int
    foreground_pgid: int


def capture(process: Process) -> Raw:
    """Read the process's stat."""
    return parse_stat(process.read("stat"))


def parse_stat(content: bytes) -> Raw:
    """Take pgrp, session, tty_nr and tpgid from /proc/PID/stat (comm may hold any byte)."""
    fields = content[content.rindex(b")") + 2 :].split()
    return Raw(*map(int, fields[2:6]))


def finish(raw: Raw, process: Process) -> Iterable[SessionRecord]:
    """Make the record, and say what will differ."""
    tty = raw.tty & 0xFFFF_FFFF
    yield SessionRecord(
        tgid=process.tgid,
        pgid=raw.pgid,
        sid=raw.sid,
        tty=tty,
        is_foreground=bool(tty) and raw.foreground_pgid == raw.pgid,
        tty_fds=_tty_fds(process, tty) if tty else [],
    )


def _tty_fds(process: Process, tty: int) -> list[int]:
    """Return the descriptors of a terminal, by device number: never by what readlink says."""
    return sorted(
        fd
        for fd, view in process.file_views.items()
        if stat.S_ISCHR(view.mode) and _same_device(view.rdev, tty)
    )


def _same_device(rdev: int, tty: int) -> bool:
    return (os.major(rdev), os.minor(rdev)) == (os.major(tty), os.minor(tty))


def plan(records: Records, build: Builder) -> None:
    """Make each process what it was: session leader, group leader, or a member of our group."""
    sessions = {record.tgid: record for record in records.of(SessionRecord)}
    for process in records.processes:
        record = sessions.get(process.tgid)
        if record is None:
            continue
        call, why = _settle(record)
        build.tape(
            process.tgid,
            (call,),
            why,
            needs=(born(process.tgid),),
            provides=(session_set(process.tgid),),
        )
        if record.sid == record.tgid and record.tty:
            _plan_terminal(process, record, build)


def _settle(record: SessionRecord) -> tuple[Call, str]:
    if record.sid == record.tgid:
        return Call(SYS_SETSID, (), record.tgid), "leader of a session of its own"
    if record.pgid == record.tgid:
        return Call(SYS_SETPGID, (0, 0)), "leader of a process group of its own"
    # Nothing to change: it was born into the command's group. The call only proves the pid.
    return Call(SYS_GETPID, (), record.tgid), "stays in the restoring command's process group"


def _plan_terminal(process: ProcessRecord, record: SessionRecord, build: Builder) -> None:
    """Ask for a controlling terminal; being refused is no failure, as the module says."""
    build.warn(
        f"process {record.tgid}",
        "led a session with a controlling terminal: it gets one back only if the restored "
        "descriptors lead to a terminal that is no other session's",
    )
    calls = [
        Call(SYS_IOCTL, (fd, TIOCSCTTY, 0), expect=Expect.ANY) for fd in record.tty_fds[:_MAX_TRIES]
    ]
    if calls:
        build.tape(
            process.tgid,
            calls,
            "controlling terminal, if it is free",
            needs=(born(process.tgid),),
            after=(fds_placed(process.files), session_set(process.tgid)),
        )

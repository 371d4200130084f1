"""The fields of struct mm_struct: program break, argument and environment ranges, auxv, exe.

Areas and pages are `areas.py`'s. Put back by PR_SET_MM_MAP (kernel/sys.c, prctl_set_mm_map), which
wants every address below TASK_SIZE, the old exe unmapped and an exe file that is not O_PATH.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import msgspec

from ckpt.errors import Finding, RestoreError
from ckpt.objects import mapped_files
from ckpt.objects.base import Record
from ckpt.objects.file_kinds.common import inode_key, inode_made, inode_sealed
from ckpt.objects.mapped_files import MappedFile
from ckpt.objects.passing import SendFds, close_call, lowest_free, receive_call
from ckpt.objects.steps import Blob, Call, Token, fds_placed, memory_filled, mm_fields_set
from ckpt.objects.vma_flags import Vm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Builder, Options, Process, Records, Restorer

_SYS_PRCTL: Final = 157
_SYS_MLOCKALL: Final = 151
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_MCL_FUTURE, _MCL_ONFAULT = 2, 4
_MM_MAP: Final = struct.Struct("<11QQII")
"""struct prctl_mm_map, 104 bytes, `include/uapi/linux/prctl.h`."""

# Positions in /proc/PID/stat behind the closing parenthesis (fs/proc/array.c, do_task_stat).
_STAT_FIELDS: Final = {
    "start_code": 23,
    "end_code": 24,
    "start_stack": 25,
    "start_data": 42,
    "end_data": 43,
    "start_brk": 44,
    "arg_start": 45,
    "arg_end": 46,
    "env_start": 47,
    "env_end": 48,
}


class MmRecord(Record, tag="mm", frozen=True):
    """One struct mm_struct; addresses are the target's."""

    VOLATILE: ClassVar[frozenset[str]] = frozenset()

    ref: int
    start_code: int
    end_code: int
    start_data: int
    end_data: int
    start_brk: int
    brk: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    auxv: bytes
    exe: MappedFile
    mlock_future: int = 0
    """Flags for mlockall(2): what it does to areas that are mapped later."""


RECORDS = (MmRecord,)


class _Raw(NamedTuple):
    stat: bytes
    auxv: bytes
    maps: bytes
    exe: MappedFile


def survey(process: Process) -> Iterator[Finding]:
    """Refuse memory that another process has as well (clone with CLONE_VM, without CLONE_THREAD).

    Whoever reads a /proc file of the process counts as a user for a moment: the count alone proves
    nothing, it only says when to look.
    """
    view = process.mm_view
    if view is None or process.observer is None or (view.mm_users or 0) <= len(process.tids):
        return
    for pid, name in process.observer.find_memory_sharers(process.tgid, view.mm):
        what = f"shares its memory with process {pid} ({name}): not supported"
        yield Finding(f"process {process.tgid}", what, f"end process {pid} first")


def capture(process: Process) -> _Raw:
    """Read stat, auxv and the identity of the exe file."""
    return _Raw(
        process.read("stat"),
        process.read("auxv"),
        b"" if process.mm_view else process.read("maps"),
        mapped_files.capture_exe(process),
    )


def finish(raw: _Raw, process: Process) -> Iterator[Record]:
    """Make the record; BPF knows brk, without it the end of [heap] is the best guess."""
    words = raw.stat[raw.stat.rindex(b")") + 2 :].split()
    fields = {name: int(words[index]) for name, index in _STAT_FIELDS.items()}
    view = process.mm_view
    brk = view.brk if view is not None else _heap_end(raw.maps, fields["start_brk"])
    yield MmRecord(
        ref=process.identities.ref("mm", process.tgid),
        brk=brk,
        auxv=raw.auxv,
        exe=raw.exe,
        mlock_future=_mlock_future(process),
        **fields,
    )


def _mlock_future(process: Process) -> int:
    view = process.mm_view
    if view is None or view.def_flags is None or not view.def_flags & Vm.LOCKED:
        return 0
    return _MCL_FUTURE | (_MCL_ONFAULT if view.def_flags & Vm.LOCKONFAULT else 0)


def _heap_end(maps: bytes, start_brk: int) -> int:
    ends = [
        int(line.split(b" ", 1)[0].split(b"-")[1], 16)
        for line in maps.splitlines()
        if line.endswith(b"[heap]")
    ]
    return max(ends, default=start_brk)


def comparable(record: MmRecord) -> MmRecord:
    """An exe that came from the image is a new inode."""
    if not record.exe.content:
        return record
    return msgspec.structs.replace(
        record, exe=msgspec.structs.replace(record.exe, dev=0, ino=0, mtime_ns=0)
    )


def preflight(records: Records, _options: Options) -> Iterable[Finding]:
    """Find what has become of the exe file."""
    return mapped_files.check_unchanged(record.exe for record in records.of(MmRecord))


def plan(records: Records, build: Builder) -> None:
    """Set the fields once all memory is in place."""
    by_ref = {record.ref: record for record in records.of(MmRecord)}
    for process in records.processes:
        _plan_process(process.tgid, process.files, by_ref[process.mm], build)


def _plan_process(tgid: int, files_ref: int, record: MmRecord, build: Builder) -> None:
    key = f"exe:{record.ref}"
    opened, sent = Token(f"opened:{key}"), Token(f"sent:{key}")
    build.host_step(
        OpenExe(record.exe, key),
        "open the exe file",
        needs=(inode_made(record.exe.content),) if record.exe.content else (),
        after=(inode_sealed(record.exe.content), memory_filled(tgid)),
        provides=(opened,),
    )
    build.host_step(
        SendFds([key]),
        "pass the exe file",
        needs=(opened, memory_filled(tgid)),
        provides=(sent,),
    )
    fd = next(lowest_free({build.socket_fd}))
    fields = Blob(
        _MM_MAP.pack(
            record.start_code,
            record.end_code,
            record.start_data,
            record.end_data,
            record.start_brk,
            record.brk,
            record.start_stack,
            record.arg_start,
            record.arg_end,
            record.env_start,
            record.env_end,
            0,
            len(record.auxv),
            fd,
        ),
        ((88, Blob(record.auxv)),),
    )
    build.tape(
        tgid,
        [
            receive_call(build.socket_fd, 1),
            Call(_SYS_PRCTL, (_PR_SET_MM, _PR_SET_MM_MAP, fields, _MM_MAP.size, 0)),
            close_call(fd),
        ],
        "set brk, arguments, environment, auxv and exe",
        needs=(sent,),
        provides=(mm_fields_set(tgid),),
    )
    if record.mlock_future:
        build.tape(
            tgid,
            [Call(_SYS_MLOCKALL, (record.mlock_future,))],
            "lock memory that is mapped later",
            needs=(mm_fields_set(tgid),),
            after=(fds_placed(files_ref),),
        )


class OpenExe:
    """Open the exe file; read-only, for the kernel refuses one that anybody may write."""

    def __init__(self, file: MappedFile, key: str) -> None:
        self.file = file
        self.key = key

    def perform(self, restorer: Restorer) -> None:
        """Open by path, or the inode that was made from the image's content."""
        path = self.file.path
        if self.file.content:
            path = f"/proc/self/fd/{restorer.fds[inode_key(self.file.content)]}"
        try:
            restorer.fds[self.key] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if self.file.content:
                self._stop_writing(restorer, path)
        except OSError as error:
            raise RestoreError(
                "exe file cannot be opened", where=self.file.path, errno=error.errno
            ) from error

    def _stop_writing(self, restorer: Restorer, path: str) -> None:
        """Hold a recreated inode by a reading descriptor: a file open for writing is no exe."""
        key = inode_key(self.file.content)
        reading = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        restorer.close_fd(key)
        restorer.fds[key] = reading

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        return f"open {self.file.path!r}"

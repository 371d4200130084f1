"""The facts of a core file from the records of an image, which is untrusted input."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from ckpt.arch.x86_64.regs import encode_regs
from ckpt.arch.x86_64.tls import GDT_TLS_ENTRIES, USER_DESC, encode_user_desc
from ckpt.arch.x86_64.xstate import MAX_AREA_SIZE
from ckpt.debug.core_facts import (
    Content,
    CoreFile,
    CoreProcess,
    CoreThread,
    Stored,
    mask_of_pending,
)
from ckpt.debug.core_files import NamedSource
from ckpt.errors import ImageError
from ckpt.image.errors import ImageCorruptError
from ckpt.objects.areas import AreasRecord
from ckpt.objects.base import Records, raise_blockers
from ckpt.objects.consistency import check_records
from ckpt.objects.cpu_state import SegmentsRecord, XstateRecord
from ckpt.objects.creds import CredsRecord
from ckpt.objects.file_kinds.inode import DELETED, MEMFD, InodeContent
from ckpt.objects.mm import MmRecord
from ckpt.objects.sched import SchedRecord
from ckpt.objects.session import SessionRecord
from ckpt.objects.siginfo import signo_of
from ckpt.objects.signals import ThreadSignals
from ckpt.objects.task import ThreadRecord
from ckpt.objects.vdso import VdsoRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ckpt.arch.x86_64.tls import UserDesc
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import ProcessRecord
    from ckpt.objects.mapped_files import MappedFile

_U64: Final = (1 << 64) - 1
_SIGINFO_HEAD: Final = 20
_MAX_AUXV: Final = 1 << 16
_SHOWN_PIDS: Final = 20
_MAX_AREAS: Final = 1 << 20
_MAX_OFFSET: Final = 1 << 62
_MAX_VDSO: Final = 1 << 20
_PATH_MAX: Final = 4096


def read_process(image: ImageFile, pid: int | None) -> CoreProcess:
    """Return the only process of an image, or process `pid`.

    Raises:
        ImageError: the image holds no such process.
        RefusedError: its records contradict each other.
    """
    records = Records(image.records)
    found = check_records(records, image.pages)
    raise_blockers(found, f"{image.path}: no core can be made of its records")
    process = _choose(records.processes, pid, image.path)
    return _Reading(image, records, process).read()


def _choose(processes: Sequence[ProcessRecord], pid: int | None, path: str) -> ProcessRecord:
    for process in processes:
        if pid == process.tgid or (pid is None and len(processes) == 1):
            return process
    names = ", ".join(str(process.tgid) for process in processes[:_SHOWN_PIDS])
    more = ", ..." if len(processes) > _SHOWN_PIDS else ""
    what = f"holds {len(processes)} processes" if pid is None else f"holds no process {pid}"
    raise ImageError(what, path=path, hint=f"choose one by --pid: {names}{more}")


class _Reading:
    """Collects what the records of one type each know of one process."""

    def __init__(self, image: ImageFile, records: Records, process: ProcessRecord) -> None:
        self._image = image
        self._records = records
        self._process = process
        self._contents = {record.ref: record for record in records.of(InodeContent)}

    def read(self) -> CoreProcess:
        """Return the process."""
        process = self._process
        threads = _by(self._records.of(ThreadRecord), "tid")
        mm = _by(self._records.of(MmRecord), "ref")[process.mm]
        layout = _by(self._records.of(AreasRecord), "ref")[process.mm]
        session = _by(self._records.of(SessionRecord), "tgid").get(process.tgid)
        vdso = _by(self._records.of(VdsoRecord), "tgid").get(process.tgid)
        self._check_areas(layout)
        first = process.tids[0]
        creds = self._about(CredsRecord, first)
        sched = self._about(SchedRecord, first)
        return CoreProcess(
            pid=process.tgid,
            ppid=0,
            pgid=_as_pid(session.pgid) if session else 0,
            sid=_as_pid(session.sid) if session else 0,
            uid=creds.credentials.uids[0] if creds else 0,
            gid=creds.credentials.gids[0] if creds else 0,
            nice=max(-20, min(sched.scheduling.nice, 19)) if sched else 0,
            comm=threads[first].comm,
            arguments=(mm.arg_start, mm.arg_end),
            auxv=mm.auxv[:_MAX_AUXV],
            stop_signal=process.stopped_by if 0 < process.stopped_by <= 64 else 0,
            threads=self._threads(threads),
            areas=layout.areas,
            files=[self._file(file) for file in layout.files],
            vdso=vdso.content[:_MAX_VDSO] if vdso else b"",
            memory=self._stored(process.mm),
        )

    def _check_areas(self, layout: AreasRecord) -> None:
        """Check what `check_records` does not: what an image that nobody restores may hold."""
        problem = ""
        if len(layout.areas) > _MAX_AREAS:
            problem = f"holds {len(layout.areas)} areas, more than a process has"
        elif any(not 0 <= area.offset < _MAX_OFFSET or area.offset & 4095 for area in layout.areas):
            problem = "holds an area at an impossible offset of its file"
        elif sum(area.special == b"[vdso]" for area in layout.areas) > 1:
            problem = "holds more than one vdso"
        if problem:
            raise ImageCorruptError(problem, path=self._image.path)

    def _about(self, kind: type[Any], tid: int) -> Any:
        return next((record for record in self._records.of(kind) if tid in record.tids), None)

    def _threads(self, threads: Mapping[int, ThreadRecord]) -> list[CoreThread]:
        areas = _by(self._records.of(XstateRecord), "tid")
        segments = _by(self._records.of(SegmentsRecord), "tid")
        signals = _by(self._records.of(ThreadSignals), "tid")
        found = []
        for tid in self._tids():
            queue = signals.get(tid)
            found.append(
                CoreThread(
                    tid=tid,
                    regs=encode_regs(threads[tid].regs),
                    xstate=areas[tid].area[:MAX_AREA_SIZE] if tid in areas else b"",
                    tls=encode_tls(segments[tid].tls) if tid in segments else b"",
                    pending=_pending(queue.pending) if queue else 0,
                    blocked=queue.mask & _U64 if queue else 0,
                )
            )
        return found

    def _tids(self) -> list[int]:
        """Return the threads, the main one first if it lives."""
        return sorted(self._process.tids, key=lambda tid: tid != self._process.tgid)

    def _stored(self, ref: int) -> Stored:
        if ref not in self._image.pages:
            return Stored()
        return Stored(self._image.fd, *self._image.page_extents(ref))

    def _file(self, file: MappedFile) -> CoreFile:
        if not file.content:
            return CoreFile(_c_string(_path(file)), None, NamedSource(file))
        record = self._contents[file.content]
        content = Content(record.size, self._stored(record.ref), record.tail)
        return CoreFile(_c_string(_name_inode(record, file)), content, None)


def _by(records: Iterable[Any], field: str) -> dict[int, Any]:
    return {getattr(record, field): record for record in records}


def _as_pid(number: int) -> int:
    return number if 0 <= number < 1 << 31 else 0


def _c_string(name: bytes) -> bytes:
    return name.split(b"\0", 1)[0][: _PATH_MAX - 1]


def _path(file: MappedFile) -> bytes:
    return os.fsencode(file.path)


def _name_inode(record: InodeContent, file: MappedFile) -> bytes:
    """Return what /proc/PID/maps says of an inode that has no name."""
    if record.kind == MEMFD:
        return b"/memfd:" + record.name + b" (deleted)"
    return (_path(file) if record.kind == DELETED else b"/dev/zero") + b" (deleted)"


def _pending(queue: Iterable[bytes]) -> int:
    return mask_of_pending([signo_of(info) for info in queue if len(info) >= _SIGINFO_HEAD])


def encode_tls(entries: Iterable[UserDesc]) -> bytes:
    """Encode NT_386_TLS: a struct user_desc for each of the three entries, 48 bytes."""
    by_number = {entry.entry_number: encode_user_desc(entry) for entry in entries}
    empty = bytes(USER_DESC.size)
    return b"".join(by_number.get(number, empty) for number in GDT_TLS_ENTRIES)

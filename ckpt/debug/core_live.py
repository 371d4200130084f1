"""The facts of a core file from a running process, which is stopped while its pages are copied.

The freeze is that of a snapshot (`ckpt.freeze`): interrupted calls go on as if nothing had been.
Unlike a snapshot this refuses nothing that only a restore would mind. Pages go to an unnamed file
first, and whoever ends us, at any moment, the kernel lets the process go.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt import reissue, target
from ckpt.arch.x86_64.regs import encode_regs
from ckpt.debug.core_facts import (
    Content,
    CoreFile,
    CoreProcess,
    CoreThread,
    Stored,
    mask_of_pending,
)
from ckpt.debug.core_image import encode_tls
from ckpt.debug.core_pages import MEMORY, HeldFile, open_files, store_pages
from ckpt.errors import CaptureError, Finding, HostError
from ckpt.freeze import Frozen, list_tids, read_state
from ckpt.host.status import parse_fields
from ckpt.image.writer import ImageWriter
from ckpt.objects import cpu_state, session, siginfo, signals, vdso
from ckpt.objects.areas import Area
from ckpt.objects.base import Identities, raise_blockers
from ckpt.objects.maps_text import SPECIAL, parse_maps, parse_smaps
from ckpt.objects.vma_flags import STABLE_MASK, Vm
from ckpt.snapshot import read_clocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.host.observer import Observer
    from ckpt.host.watch import Watch
    from ckpt.objects.base import Options, Process
    from ckpt.objects.maps_text import MapsLine

_TRIES: Final = 8
# Fields of /proc/PID/stat behind the command's name (fs/proc/array.c, do_task_stat).
_PPID, _NICE, _ARG_START, _ARG_END = 1, 16, 45, 46


class Capture(NamedTuple):
    """What was captured; files stay open until the `captured` block ends."""

    process: CoreProcess
    frozen_s: float
    warnings: list[Finding]


@contextmanager
def captured(pid: int, options: Options, watch: Watch, output: str) -> Iterator[Capture]:
    """Capture process `pid` and let it go on.

    Until the block ends its pages are in an unnamed file beside `output` (`-`: in TMPDIR).

    Raises:
        CkptError: it cannot be stopped or read; it runs on as before.
    """
    if os.geteuid() != 0:
        hint = f"sudo ckpt-bpf core --live {pid}"
        raise HostError("only root can stop and read a process", where=f"pid {pid}", hint=hint)
    _check_leader(pid)
    process = target.examine(pid, options)
    opened: list[int] = []
    try:
        watch.step("load BPF programs")
        with target.open_observer(process) as observer, target.naming_the_end(process):
            watch.step(f"look at {len(process.tids)} threads")
            _look(process, observer)
            raise_blockers(_find_vforks(process), f"process {pid} cannot be stopped")
            with _open_spool(output, options) as spool:
                watch.step("make room for its pages")
                spool.preallocate(target.estimate_bytes(process), prefault=True)
                spool.pages.progress = watch.advance
                process.sink = spool.pages
                raw, frozen_s = _freeze(process, observer, watch, opened)
                yield Capture(_finish(raw, process, spool), frozen_s, process.findings)
    finally:
        for fd in (*opened, process.pidfd):
            os.close(fd)


def _check_leader(pid: int) -> None:
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            tgid = int(parse_fields(file.read())[b"Tgid"])
    except target.GONE as error:
        raise CaptureError("no such process", where=f"pid {pid}") from error
    if tgid != pid:
        hint = f"ckpt-bpf core --live {tgid}"
        raise CaptureError(f"is a thread of process {tgid}", where=f"pid {pid}", hint=hint)


def _open_spool(output: str, options: Options) -> ImageWriter:
    """Open an image that is never finished: its page sink is what a snapshot's freeze uses."""
    if output == "-":
        return ImageWriter.to_stream(-1, options.timeout_s)
    return ImageWriter.create(output)


def _look(process: Process, observer: Observer | None) -> None:
    """See what the threads wait for, while they run and may end."""
    for _ in range(_TRIES):
        try:
            if observer is not None:
                view = target.observe_waits(process, observer)
                reissue.prepare(view.threads.values())
            return
        except target.GONE:
            target.refresh(process)
    what, hint = "changed each time that it was looked at", "run it again"
    raise CaptureError(what, where=f"process {process.tgid}", hint=hint)


def _find_vforks(process: Process) -> Iterator[Finding]:
    """Find threads that no stop reaches, because they wait for a child of vfork."""
    for tid in list_tids(process.tgid):
        if not read_state(process.tgid, tid).startswith("D"):
            continue
        try:
            call = process.read("syscall", tid).split()
        except target.GONE:
            continue
        if target.is_vfork(call):
            what = "waits in vfork until its child executes a program or ends"
            yield Finding(f"tid {tid}", what, "wait for that, or end the child")


class _Raw(NamedTuple):
    """What was read while the process stood still."""

    lines: list[MapsLine]
    flags: dict[int, int]
    cpu: Any
    signals: signals.Raw
    session: session.Raw
    vdso: bytes
    stat: list[bytes]
    status: dict[bytes, bytes]
    comm: bytes
    auxv: bytes
    files: dict[tuple[bytes, int], HeldFile]


def _freeze(
    process: Process, observer: Observer | None, watch: Watch, opened: list[int]
) -> tuple[_Raw, float]:
    """Stop the process, read everything, let it go; return also for how long it stood."""
    process.identities = Identities()
    with Frozen(process, process.options.timeout_s) as frozen:
        watch.step("stop every thread")
        if observer is not None:
            target.observe_waits(process, observer)
        frozen.stop()
        watch.step(f"capture, {len(process.stops)} threads are stopped")
        read_clocks(process)
        if observer is not None:
            view = observer.observe_threads(process.tgid)
            process.thread_views, process.process_view = view.threads, view.process
        raw = _capture(process, opened)
        frozen.thaw()
        frozen_s = (time.monotonic_ns() - frozen.interrupted_at_ns) / 1e9
    return raw, frozen_s


def _capture(process: Process, opened: list[int]) -> _Raw:
    lines = [line for line in parse_maps(process.read("maps")) if line.name != b"[vsyscall]"]
    flags = _read_flags(process)
    store_pages(process, lines, flags)
    return _Raw(
        lines,
        flags,
        cpu_state.capture(process),
        signals.capture(process),
        session.capture(process),
        vdso.capture(process).content,
        process.read("stat").rpartition(b")")[2].split(),
        parse_fields(process.read("status")),
        process.read("comm").rstrip(b"\n"),
        process.read("auxv"),
        # Last: it may leave no descriptors for the others.
        open_files(process, lines, flags, opened),
    )


def _read_flags(process: Process) -> dict[int, int]:
    """Return start -> VM_* of every area; BPF sees them without walking the page tables."""
    views = process.read_areas()
    if views is not None:
        return {view.start: view.flags & STABLE_MASK for view in views}
    return {start: entry.flags for start, entry in parse_smaps(process.read("smaps")).items()}


def _finish(raw: _Raw, process: Process, spool: ImageWriter) -> CoreProcess:
    """Make the facts of what was read; the process runs again."""

    def stored(ref: int) -> Stored:
        item = spool.pages.objects[ref]
        return Stored(spool.pages.fd, item.extents, item.file_offset)

    names = _names(raw.lines)
    indexes = {key: index for index, key in enumerate(names)}
    files = []
    for key, name in names.items():
        file = raw.files.get(key)
        content = (
            Content(file.size_bytes, stored(file.ref), file.tail) if file and file.ref else None
        )
        files.append(CoreFile(name, content, file))
    return CoreProcess(
        pid=process.tgid,
        ppid=int(raw.stat[_PPID]),
        pgid=raw.session.pgid,
        sid=raw.session.sid,
        uid=int(raw.status[b"Uid"].split()[0]),
        gid=int(raw.status[b"Gid"].split()[0]),
        nice=int(raw.stat[_NICE]),
        comm=raw.comm,
        arguments=(int(raw.stat[_ARG_START]), int(raw.stat[_ARG_END])),
        auxv=raw.auxv,
        stop_signal=process.stopped_by,
        threads=list(_threads(raw, process)),
        areas=[_area(line, raw.flags.get(line.start, 0), indexes) for line in raw.lines],
        files=files,
        vdso=raw.vdso,
        memory=stored(MEMORY),
    )


def _names(lines: list[MapsLine]) -> dict[tuple[bytes, int], bytes]:
    """Return the files in the order of the areas; a path with a line feed as it is."""
    names: dict[tuple[bytes, int], bytes] = {}
    for line in lines:
        if line.inode:
            names.setdefault((line.dev, line.inode), line.name.replace(b"\\012", b"\n"))
    return names


def _area(line: MapsLine, flags: int, indexes: dict[tuple[bytes, int], int]) -> Area:
    # A private huge page's file is the kernel's own: it is anonymous memory.
    has_file = line.inode and not (flags & Vm.HUGETLB and not flags & Vm.MAYSHARE)
    return Area(
        line.start,
        line.end,
        flags,
        line.offset if has_file else 0,
        indexes[line.dev, line.inode] if has_file else -1,
        special=line.name if line.name in SPECIAL else b"",
    )


def _threads(raw: _Raw, process: Process) -> Iterator[CoreThread]:
    for tid in sorted(process.stops, key=lambda tid: tid != process.tgid):
        queue = [siginfo.signo_of(info) for info in raw.signals.pending.get(tid, ())]
        view = process.thread_views.get(tid)
        segments, _ = raw.cpu.segments.get(tid, ((), None))
        yield CoreThread(
            tid=tid,
            regs=encode_regs(process.stops[tid].regs),
            xstate=raw.cpu.areas[tid],
            tls=encode_tls(segments) if segments else b"",
            pending=view.pending if view is not None else mask_of_pending(queue),
            blocked=raw.signals.masks[tid],
        )

"""The order of a snapshot's steps. What each step does is the business of the modules it calls."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ckpt import target
from ckpt.debug.sources import list_sources
from ckpt.errors import CkptError, ImageWriteError
from ckpt.freeze import Frozen
from ckpt.host.clocks import clocks_ahead
from ckpt.host.watch import Watch, released
from ckpt.image.header import Clocks, Header
from ckpt.image.timings import Stopwatch
from ckpt.image.writer import ImageWriter
from ckpt.objects import modules
from ckpt.objects.base import Identities, Options, Process, raise_blockers

if TYPE_CHECKING:
    from types import ModuleType

    from ckpt.errors import Finding
    from ckpt.host.observer import Observer
    from ckpt.host.watch import Report

_CLOCKS = (time.CLOCK_REALTIME, time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME, time.CLOCK_TAI)
_ALARM_CLOCKS = {8: time.CLOCK_REALTIME, 9: time.CLOCK_BOOTTIME}
"""CLOCK_REALTIME_ALARM and CLOCK_BOOTTIME_ALARM read like the clocks that they wake up for."""


class SnapshotResult(NamedTuple):
    """What a snapshot did."""

    pid: int
    image: str
    image_bytes: int
    frozen_s: float
    wall_s: float
    sources: dict[str, list[str]]
    """What was learned by "bpf", "ptrace" and "proc"."""
    warnings: list[Finding]
    threads: int


def snapshot(
    pid: int,
    output: str | int | None = None,
    options: Options | None = None,
    report: Report | None = None,
) -> SnapshotResult:
    """Write an image of process `pid`; then kill it, unless `options` say otherwise.

    `output` is a path (default `PID.ckpt`), or a descriptor that the image is streamed to.
    `report` is told what is being done.

    Raises:
        CkptError: nothing was written and the target runs on as before.
    """
    options = options or Options()
    started = time.monotonic()
    laps = Stopwatch()
    process = target.examine(pid, options)
    laps.lap("examine")
    with Watch(options.timeout_s, options.deadline_s, report) as watch:
        try:
            watch.step("load BPF programs")
            with target.open_observer(process) as observer:
                laps.lap("load BPF programs")
                watch.step(f"survey of {len(process.tids)} threads")
                found = target.survey(process, observer)
                raise_blockers(found, f"process {pid} cannot be snapshotted")
                laps.lap("survey")
                # Objrefs are given in the order of the capture alone, so that a second capture of
                # the same process (`restore --verify`) gives the same ones.
                process.identities = Identities()
                with (
                    target.naming_the_end(process),
                    _open_writer(pid, output, options) as writer,
                    target.watch_tasks(process, observer),
                ):
                    watch.step("make room for the image")
                    stays = options.leave_running or options.leave_stopped
                    writer.preallocate(target.estimate_bytes(process), prefault=stays)
                    laps.lap("make room")
                    return _take(process, observer, writer, watch, laps, started)
        finally:
            os.close(process.pidfd)


def _open_writer(pid: int, output: str | int | None, options: Options) -> ImageWriter:
    if isinstance(output, int):
        return ImageWriter.to_stream(output, options.timeout_s)
    return ImageWriter.create(output or f"{pid}.ckpt")


def _take(
    process: Process,
    observer: Observer | None,
    writer: ImageWriter,
    watch: Watch,
    laps: Stopwatch,
    started: float,
) -> SnapshotResult:
    options = process.options
    process.sink = laps.pages = writer.pages
    writer.pages.progress = watch.advance
    try:
        with Frozen(process, options.timeout_s) as frozen:
            watch.step("stop every thread")
            if observer is not None:
                target.observe_waits(process, observer)
            frozen.stop()
            laps.freeze("last look", frozen.interrupted_at_ns)
            laps.lap("stop")
            watch.step(f"capture, {len(process.stops)} threads are stopped")
            clocks = read_clocks(process)
            target.observe_frozen(process, observer)
            target.check_complete(process)
            laps.lap("observe")
            raws = capture(process, laps)
            if options.leave_stopped:
                os.kill(process.tgid, signal.SIGSTOP)
            stays = options.leave_running or options.leave_stopped
            if stays:
                frozen.thaw()
                laps.lap("let go")
            frozen_s = (time.monotonic_ns() - frozen.interrupted_at_ns) / 1e9
            watch.step(f"write the image, the process {'is let go' if stays else 'is kept'}")
            writer.write_timings(laps.timings())
            _write(process, raws, clocks, writer, watch)
            if not stays:
                frozen.kill()
    except CkptError as error:
        if not isinstance(error, ImageWriteError):
            writer.publish_failure(str(error))
        raise
    watch.done()
    return SnapshotResult(
        process.tgid,
        writer.path,
        writer.size_bytes,
        frozen_s,
        time.monotonic() - started,
        list_sources(process, observer),
        [finding for finding in process.findings if not finding.blocker],
        len(process.tids),
    )


def capture(process: Process, laps: Stopwatch) -> list[tuple[ModuleType, Any]]:
    """Let every object module read its part of the frozen process.

    Raises:
        RefusedError: something is there now that the survey had not seen.
    """
    raws = []
    for module in modules():
        if hasattr(module, "capture"):
            raws.append((module, module.capture(process)))
            laps.lap(module.__name__.rpartition(".")[2])
        else:
            raws.append((module, None))
    raise_blockers(process.findings, f"process {process.tgid} changed meanwhile")
    return raws


def read_clocks(process: Process) -> Clocks:
    """Return the clocks of the freeze, as the target sees them; fill `process.clock_offsets_ns`."""
    process.frozen_ns = time.monotonic_ns()
    for clock in _CLOCKS:
        process.clock_offsets_ns[clock] = time.clock_gettime_ns(clock) - time.monotonic_ns()
    for clock, base in _ALARM_CLOCKS.items():
        process.clock_offsets_ns[clock] = process.clock_offsets_ns[base]
    monotonic_ahead_ns, boottime_ahead_ns = clocks_ahead(process.living_tid)
    return Clocks(
        monotonic_ns=process.frozen_ns + monotonic_ahead_ns,
        boottime_ns=process.clock_ns(time.CLOCK_BOOTTIME, process.frozen_ns) + boottime_ahead_ns,
        realtime_ns=process.clock_ns(time.CLOCK_REALTIME, process.frozen_ns),
    )


def _write(
    process: Process,
    raws: list[tuple[ModuleType, Any]],
    clocks: Clocks,
    writer: ImageWriter,
    watch: Watch,
) -> None:
    names = os.uname()
    writer.write_header(
        Header(
            arch="x86_64",
            page_size=os.sysconf("SC_PAGE_SIZE"),
            kernel_release=names.release,
            kernel_version=names.version,
            machine=names.machine,
            vdso_hash="",
            boot_id="",
            clocks=clocks,
        )
    )
    for module, raw in raws:
        if hasattr(module, "finish"):
            writer.write_records(module.finish(raw, process))
    with released():
        writer.commit(watch.advance)

"""A core file of one process, as debuggers open it: from an image, or of a running process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.core_elf import build_end, build_head
from ckpt.debug.core_files import Files
from ckpt.debug.core_fill import Filler
from ckpt.debug.core_layout import plan_layout
from ckpt.debug.core_notes import build_notes
from ckpt.errors import ImageWriteError
from ckpt.image.output import FileOutput, StreamOutput
from ckpt.image.sink import write_all

if TYPE_CHECKING:
    from ckpt.debug.core_facts import CoreProcess
    from ckpt.errors import Finding
    from ckpt.host.watch import Report
    from ckpt.image.output import Output, Progress
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import Options

_STALL_S: Final = 30.0
"""So long the reader of a stream may take nothing."""


class CoreResult(NamedTuple):
    """What was written."""

    pid: int
    core: str
    threads: int
    core_bytes: int
    """The file's length."""
    disk_bytes: int
    """What it takes on the disk: it has holes."""
    frozen_s: float | None
    """None: the process was not touched."""
    warnings: list[Finding]


def core_of_image(
    image: ImageFile,
    output: str | int | None = None,
    pid: int | None = None,
    progress: Progress | None = None,
    *,
    full: bool = False,
) -> CoreResult:
    """Write the core of a process of an image: of the only one, or of `pid`.

    `output` is a path (default `core.PID`), or a descriptor that the core is streamed to. `full`:
    with what mapped files on disk hold.

    Raises:
        CkptError: nothing was written.
    """
    from ckpt.debug.core_image import read_process

    process = read_process(image, pid)
    target = _open_output(output, process.pid)
    try:
        # The other CPU reads the same pages to check them.
        with image.checking_pages() as check:
            result = write_core(process, target, progress, full=full)
            check.wait()
        target.publish(progress)
    finally:
        target.discard()
    return result


def core_of_process(
    pid: int,
    output: str | int | None,
    options: Options,
    report: Report | None = None,
    *,
    full: bool = False,
) -> CoreResult:
    """Write the core of running process `pid`, which stands still only while it is captured.

    Nothing is refused that only a restore would mind: sockets, children, namespaces.

    Raises:
        CkptError: nothing was written, and the process runs on as before.
    """
    from ckpt.debug.core_live import captured
    from ckpt.host.watch import Watch, released

    with Watch(options.timeout_s, options.deadline_s, report) as watch:
        target = _open_output(output, pid)
        try:
            with captured(pid, options, watch, target.path) as capture:
                watch.step("write the core, the process is let go")
                result = write_core(capture.process, target, watch.advance, full=full)
            with released():
                target.publish(watch.advance)
        finally:
            target.discard()
        watch.done()
    warnings = [*capture.warnings, *result.warnings]
    return result._replace(frozen_s=capture.frozen_s, warnings=warnings)


def _open_output(output: str | int | None, pid: int) -> Output:
    if isinstance(output, int):
        return StreamOutput(output, _STALL_S)
    return FileOutput(output or f"core.{pid}")


def write_core(
    process: CoreProcess, output: Output, progress: Progress | None = None, *, full: bool = False
) -> CoreResult:
    """Write the core of `process` into `output`, which the caller publishes.

    Raises:
        CkptError: no room, or what is to be copied cannot be read.
    """
    files = Files(process.files)
    layout = plan_layout(process, files, full=full)
    head, base = build_head(layout, build_notes(process))
    end = build_end(layout)
    size = base + layout.size_bytes + len(end)
    try:
        os.ftruncate(output.fd, size)
    except OSError as error:
        what = f"cannot be {size} bytes long"
        raise ImageWriteError(what, path=output.path, errno=error.errno) from error
    write_all(output.fd, head, 0, output.path)
    Filler(process, files, output, base, progress).fill(layout)
    write_all(output.fd, end, size - len(end), output.path)
    used = os.fstat(output.fd).st_blocks * 512
    return CoreResult(
        process.pid, output.path, len(process.threads), size, used, None, layout.findings
    )

"""How large an image of a running process will be, and for how long a snapshot will stop it.

The size is counted: the pages that hold something of their own now (PAGEMAP_SCAN, which stops
nobody), the content of files without a name, and a few bytes for each thread, area and descriptor.

The time is a model: so much for each thread, area and descriptor, and a copy of all bytes. Its
constants are the phases that snapshots of `scripts/bench-target` (1000 threads, 10000 areas, 10000
descriptors, 400 MiB) have in their timings frames, on the machine of `REFERENCE_NS`; what is
measured here and now are the speed of a copy, and how long a small job of the same kind takes: the
constants are scaled by that.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.errors import CaptureError
from ckpt.host import pagemap
from ckpt.host.status import parse_fields, read_small

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckpt.objects.base import Process
    from ckpt.objects.maps_text import MapsLine

_BASE_BYTES: Final = 20 << 10
_THREAD_BYTES: Final = 1700
_AREA_BYTES: Final = 38
_DESCRIPTOR_BYTES: Final = 175

_BASE_NS: Final = 3_000_000
_THREAD_NS: Final = 155_000
_AREA_NS: Final = 7_300
_DESCRIPTOR_NS: Final = 14_000
REFERENCE_NS: Final = 33_000
"""Reading and parsing /proc/self/status once, where the constants were measured."""

_COPY_BYTES: Final = 4 << 20
_SHARED_BYTES: Final = 8 << 20
"""From here on `ckpt.image.sink` copies on two cores."""
_SECOND_CORE: Final = 1.6
_UNREADABLE: Final = (b"[vvar]", b"[vvar_vclock]")


class Estimate(NamedTuple):
    """What a snapshot of the process as it is now would come to."""

    threads: int
    areas: int
    descriptors: int
    pages_bytes: int
    """Of memory of its own."""
    contents_bytes: int
    """Of files that only it keeps alive: memfds, deleted files, shared memory."""
    image_bytes: int
    frozen_s: float
    """With --leave-running, on an otherwise idle machine."""


class Machine(NamedTuple):
    """How fast this machine is at the moment."""

    slowness: float
    """1: like the one where the constants were measured; 2: takes twice as long."""
    copy_ns_per_byte: float


def build_estimate(
    counts: tuple[int, int, int], pages_bytes: int, contents_bytes: int, machine: Machine
) -> Estimate:
    """Apply the model to `counts` of threads, areas and descriptors."""
    threads, areas, descriptors = counts
    stored = pages_bytes + contents_bytes
    rest = _BASE_BYTES + threads * _THREAD_BYTES
    rest += areas * _AREA_BYTES + descriptors * _DESCRIPTOR_BYTES
    work_ns = _BASE_NS + threads * _THREAD_NS + areas * _AREA_NS + descriptors * _DESCRIPTOR_NS
    shared = _SECOND_CORE if stored >= _SHARED_BYTES and (os.cpu_count() or 1) > 1 else 1.0
    copy_ns = stored * machine.copy_ns_per_byte / shared
    frozen_s = (work_ns * machine.slowness + copy_ns) / 1e9
    return Estimate(*counts, pages_bytes, contents_bytes, stored + rest, frozen_s)


def measure_machine() -> Machine:
    """Take a few milliseconds to see how fast this machine is."""
    return Machine(
        min(max(_measure_job() / REFERENCE_NS, 0.1), 20.0),
        _measure_copy() / _COPY_BYTES,
    )


def _measure_job() -> float:
    """Return the nanoseconds of reading and parsing a /proc file, as a snapshot does all the time.

    The least of some tries: what the machine can do, not what else it does just now.
    """
    tries = []
    for _ in range(60):
        started = time.perf_counter_ns()
        parse_fields(read_small("/proc/self/status"))
        tries.append(time.perf_counter_ns() - started)
    return min(tries)


def _measure_copy() -> float:
    """Return the nanoseconds of copying memory of ours through /proc/self/mem into a memfd."""
    import ctypes

    memory = bytearray(_COPY_BYTES)
    memory[::4096] = b"x" * (_COPY_BYTES // 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    buffer = bytearray(1 << 20)
    target = os.memfd_create("ckpt-copy", os.MFD_CLOEXEC)
    source = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        tries = []
        # The first one pays for memory that nobody has touched yet; a snapshot has touched it.
        for _ in range(4):
            started = time.perf_counter_ns()
            for offset in range(0, _COPY_BYTES, len(buffer)):
                os.preadv(source, [buffer], address + offset)
                os.pwrite(target, buffer, offset)
            tries.append(time.perf_counter_ns() - started)
        return min(tries)
    finally:
        os.close(source)
        os.close(target)


def count_pages_bytes(process: Process, lines: Iterable[MapsLine]) -> int:
    """Return the bytes of private pages that hold something now; nothing is stopped.

    Raises:
        PermissionError: the page map of another user's process.
        CaptureError: this kernel has no PAGEMAP_SCAN.
    """
    skip = [(line.start, line.end) for line in lines if line.name in _UNREADABLE]
    fd = os.open(process.path("pagemap"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return sum(pagemap.scan_own_pages(fd, skip)[1::2])
    except (PermissionError, ProcessLookupError):
        raise
    except OSError as error:
        what = "its pages cannot be counted"
        raise CaptureError(what, where=f"process {process.tgid}", errno=error.errno) from error
    finally:
        os.close(fd)

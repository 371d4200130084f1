"""From the records of the iterator over tasks to views. Pure: bytes in, ``KernelView`` out."""

from __future__ import annotations

from ckpt.host import bpf_records as records
from ckpt.host.bpf_decode_process import (
    RLIMIT_COUNT,
    decode_mm,
    decode_posix_timer,
    decode_process,
    decode_rlimits,
    decode_sigactions,
)
from ckpt.host.bpf_decode_thread import Surroundings, decode_thread, without_gaps
from ckpt.host.bpf_sort import AIO, AUXV, LDT, RLIMITS, SIGACTIONS, Sorted, sort_records
from ckpt.host.kernel_view import KernelView, MmView, ProcessView


def decode_tasks(buffer: bytes, timers: bytes | None, around: Surroundings) -> KernelView:
    """Decode everything that was read of one process. ``buffer`` must not be empty."""
    found = sort_records(buffer)
    cores = found.cores
    threads = {
        core.tid: decode_thread(core, abi, found, around)
        for core, abi in zip(cores, found.abis, strict=True)
    }
    first = cores[0]
    process = _process(found, timers, first, around)
    mms = {}
    for mm, arrays in found.mms:
        view = _mm(mm, arrays, around)
        mms[view.mm] = view
    return KernelView(
        source="bpf",
        tgid=first.tgid,
        observed_ns=first.observed_ns,
        boottime_ns=first.boottime_ns,
        threads=threads,
        process=process,
        mms=mms,
        gaps=around.gaps + _truncations(found),
    )


def _process(
    found: Sorted, timers: bytes | None, first: records.TasksCore, around: Surroundings
) -> ProcessView | None:
    if not found.processes:
        return None
    record = found.processes[0]
    _, limits = found.arrays[RLIMITS]
    _, actions = found.arrays.get(SIGACTIONS, (0, b""))
    assert len(limits) == RLIMIT_COUNT * 16
    posix_timers = None
    if timers is not None:
        threads = {core.tid: core for core in found.cores}
        posix_timers = tuple(
            decode_posix_timer(records.TimersRecord(*fields), record, threads, around)
            for fields in records.TIMERS_RECORD.iter_unpack(timers)
        )
    view = decode_process(
        record,
        first,
        decode_rlimits(limits),
        decode_sigactions(actions) if actions else None,
        posix_timers,
        around.identify,
        around.tick_ns,
    )
    return without_gaps(view, around.gaps)


def _mm(
    record: records.TasksMm, arrays: dict[int, tuple[int, bytes]], around: Surroundings
) -> MmView:
    view = decode_mm(
        record,
        auxv=arrays.get(AUXV, (0, b""))[1],
        aio=arrays.get(AIO, (0, b"")),
        ldt=arrays.get(LDT, (0, b"")),
        identify=around.identify,
    )
    return without_gaps(view, around.gaps)


def _truncations(found: Sorted) -> tuple[str, ...]:
    """Name arrays that were larger than what one record holds."""
    return tuple(
        f"mm_struct.{name}: only {len(data)} of {used} bytes were read"
        for _, arrays in found.mms
        for kind, name in ((LDT, "context.ldt"), (AIO, "ioctx_table"))
        for used, data in [arrays.get(kind, (0, b""))]
        if used > len(data)
    )

"""Cuts what the iterator over tasks wrote into records, and sorts these by what they describe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ckpt.host import bpf_records as records
from ckpt.host.kernel_view import Namespaces

# enum tasks_kind, bpf/tasks.h
CORE: Final = 1
ABI: Final = 2
RESTART: Final = 3
BLOCKED: Final = 4
NAMESPACES: Final = 5
PROCESS: Final = 6
RLIMITS: Final = 7
SIGACTIONS: Final = 8
MM: Final = 9
AUXV: Final = 10
AIO: Final = 11
LDT: Final = 12

HEADER_BYTES: Final = 16
"""TASKS_BYTES_HEADER."""


class Sorted(NamedTuple):
    """Records by what they describe."""

    cores: list[records.TasksCore]
    abis: list[records.TasksAbi]
    restarts: dict[int, tuple[int, ...]]
    """Fields of a struct restart."""
    blocked: dict[int, records.TasksBlocked]
    namespaces: dict[int, Namespaces]
    processes: list[records.TasksProcess]
    mms: list[tuple[records.TasksMm, dict[int, tuple[int, bytes]]]]
    arrays: dict[int, tuple[int, bytes]]
    """Kind to (bytes used, bytes) of what belongs to the process."""


def sort_records(buffer: bytes) -> Sorted:
    """Parse all records; those after a TasksCore belong to its task."""
    found = Sorted([], [], {}, {}, {}, [], [], {})
    for kind, offset, size in walk_records(buffer):
        if kind == CORE:
            found.cores.append(records.TasksCore(*records.TASKS_CORE.unpack_from(buffer, offset)))
        elif kind == ABI:
            found.abis.append(records.TasksAbi(*records.TASKS_ABI.unpack_from(buffer, offset)))
        else:
            _sort_other(found, kind, buffer, offset, size)
    return found


def _sort_other(found: Sorted, kind: int, buffer: bytes, offset: int, size: int) -> None:
    tid = found.cores[-1].tid
    if kind == RESTART:
        found.restarts[tid] = records.TASKS_RESTART.unpack_from(buffer, offset)[2:]
    elif kind == BLOCKED:
        found.blocked.setdefault(
            tid, records.TasksBlocked(*records.TASKS_BLOCKED.unpack_from(buffer, offset))
        )
    elif kind == NAMESPACES:
        fields = records.TASKS_NAMESPACES.unpack_from(buffer, offset)
        found.namespaces[fields[2]] = Namespaces(*fields[3:12])
    elif kind == PROCESS:
        found.processes.append(
            records.TasksProcess(*records.TASKS_PROCESS.unpack_from(buffer, offset))
        )
    elif kind == MM:
        found.mms.append((records.TasksMm(*records.TASKS_MM.unpack_from(buffer, offset)), {}))
    else:
        used = int.from_bytes(buffer[offset + 8 : offset + 12], "little")
        part = (used, buffer[offset + HEADER_BYTES : offset + size])
        (found.mms[-1][1] if kind in {AUXV, AIO, LDT} else found.arrays)[kind] = part


def walk_records(buffer: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (kind, offset, size) of each record."""
    words = memoryview(buffer).cast("I")
    offset, end = 0, len(buffer)
    while offset < end:
        kind, size = words[offset // 4], words[offset // 4 + 1]
        assert 8 <= size <= end - offset, f"record of {size} bytes at {offset}"
        yield kind, offset, size
        offset += size


def find_process(buffer: bytes) -> records.TasksProcess | None:
    """Return the process record without decoding the rest; it is among the leader's, the first."""
    for kind, offset, _size in walk_records(buffer):
        if kind == PROCESS:
            return records.TasksProcess(*records.TASKS_PROCESS.unpack_from(buffer, offset))
    return None

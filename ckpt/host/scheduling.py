"""Scheduling of any thread, asked for from outside: sched_getattr, affinity, ioprio.

Structs and numbers: `include/uapi/linux/sched/types.h`, `include/uapi/linux/ioprio.h`, 6.18.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.host.facts import Scheduling

if TYPE_CHECKING:
    from collections.abc import Iterable

SYS_SCHED_GETAFFINITY: Final = 204
SYS_IOPRIO_GET: Final = 252
SYS_SCHED_GETATTR: Final = 315
IOPRIO_WHO_PROCESS: Final = 1

SCHED_ATTR: Final = struct.Struct("<IIQiIQQQ")
"""struct sched_attr up to the clamps (48 bytes, SCHED_ATTR_SIZE_VER0)."""
_CPU_BYTES: Final = 1024
"""Room for 8,192 CPUs, the most that x86 kernels are built for."""

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long,) * 5


class RawScheduling(NamedTuple):
    """What the kernel answered about one thread, not decoded yet."""

    attr: bytes
    cpus: bytes
    ioprio: int


def read_raw(tids: Iterable[int]) -> dict[int, RawScheduling]:
    """Ask about many threads with one pair of buffers: some microseconds each.

    Raises:
        OSError: ESRCH when a thread is gone.
    """
    attr = ctypes.create_string_buffer(SCHED_ATTR.size)
    cpus = ctypes.create_string_buffer(_CPU_BYTES)
    attr_at, cpus_at = ctypes.addressof(attr), ctypes.addressof(cpus)
    found = {}
    for tid in tids:
        _call(SYS_SCHED_GETATTR, tid, attr_at, SCHED_ATTR.size)
        stored = _call(SYS_SCHED_GETAFFINITY, tid, _CPU_BYTES, cpus_at)
        ioprio = _call(SYS_IOPRIO_GET, IOPRIO_WHO_PROCESS, tid, 0)
        mask = ctypes.string_at(cpus_at, stored)
        found[tid] = RawScheduling(ctypes.string_at(attr_at, SCHED_ATTR.size), mask, ioprio)
    return found


def _call(nr: int, first: int, second: int, third: int) -> int:
    result = int(_syscall(nr, first, second, third, 0))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def decode_scheduling(raw: RawScheduling) -> Scheduling:
    """Turn the kernel's answers into fields."""
    policy, flags, nice, priority, runtime, deadline, period = SCHED_ATTR.unpack(raw.attr)[1:]
    mask = int.from_bytes(raw.cpus, "little")
    return Scheduling(policy, flags, nice, priority, runtime, deadline, period, mask, raw.ioprio)


def read_scheduling(tid: int) -> Scheduling:
    """Return how thread `tid` is scheduled; 0 asks for the caller."""
    return decode_scheduling(read_raw((tid,))[tid])


def read_online_cpus() -> int:
    """Return the CPUs that are online, bit n for CPU n."""
    with open("/sys/devices/system/cpu/online", "rb") as listing:
        return parse_cpu_list(listing.read().decode("ascii"))


def parse_cpu_list(text: str) -> int:
    """Turn `0-3,8` into a mask."""
    mask = 0
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        mask |= (1 << (int(last or first) + 1)) - (1 << int(first))
    return mask

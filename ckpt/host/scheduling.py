"""Scheduling of any thread, asked for from outside: sched_getattr, affinity, ioprio.

Structs and numbers: `include/uapi/linux/sched/types.h`, `include/uapi/linux/ioprio.h`, 6.18.
"""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from ckpt.host.facts import Scheduling
from ckpt.host.syscalls import syscall

SYS_SCHED_GETAFFINITY: Final = 204
SYS_IOPRIO_GET: Final = 252
SYS_SCHED_GETATTR: Final = 315
IOPRIO_WHO_PROCESS: Final = 1

SCHED_ATTR: Final = struct.Struct("<IIQiIQQQ")
"""struct sched_attr up to the clamps (48 bytes, SCHED_ATTR_SIZE_VER0)."""
_CPU_BYTES: Final = 1024
"""Room for 8,192 CPUs, the most that x86 kernels are built for."""


def read_scheduling(tid: int) -> Scheduling:
    """Return how thread `tid` is scheduled; 0 asks for the caller.

    Raises:
        OSError: ESRCH when the thread is gone.
    """
    attr = ctypes.create_string_buffer(SCHED_ATTR.size)
    syscall(SYS_SCHED_GETATTR, tid, attr, SCHED_ATTR.size, 0)
    cpus = ctypes.create_string_buffer(_CPU_BYTES)
    stored = syscall(SYS_SCHED_GETAFFINITY, tid, _CPU_BYTES, cpus)
    ioprio = syscall(SYS_IOPRIO_GET, IOPRIO_WHO_PROCESS, tid)
    policy, flags, nice, priority, runtime, deadline, period = SCHED_ATTR.unpack(attr.raw)[1:]
    mask = int.from_bytes(cpus.raw[:stored], "little")
    return Scheduling(policy, flags, nice, priority, runtime, deadline, period, mask, ioprio)


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

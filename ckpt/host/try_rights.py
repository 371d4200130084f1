"""Trials of privileges: capabilities, ptrace scope, limits."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING, Final

from ckpt.host.features import Trial
from ckpt.host.status import parse_credentials, parse_fields, read_small

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CAPABILITIES: Final = (
    (21, "SYS_ADMIN", "no time namespaces, no seccomp filters"),
    (19, "SYS_PTRACE", "no snapshot of processes of others"),
    (40, "CHECKPOINT_RESTORE", "no pid can be chosen (SYS_ADMIN does as well)"),
    (24, "SYS_RESOURCE", "hard limits cannot be raised, oom_score_adj not lowered"),
    (39, "BPF", "snapshot needs --no-bpf (SYS_ADMIN does as well)"),
    (38, "PERFMON", "snapshot needs --no-bpf (SYS_ADMIN does as well)"),
    (8, "SETPCAP", "bounding sets and securebits do not come back"),
    (7, "SETUID", "no restore of processes of other users"),
    (6, "SETGID", "groups do not come back"),
    (23, "SYS_NICE", "priorities do not come back"),
    (25, "SYS_TIME", "clocks show the pause"),
    (18, "SYS_CHROOT", "no restore of processes with a root folder of their own"),
    (14, "IPC_LOCK", "locked memory above the limit does not come back"),
    (1, "DAC_OVERRIDE", "files of other users cannot be opened again"),
    (12, "NET_ADMIN", "some socket options do not come back"),
)
"""Number (`include/uapi/linux/capability.h`, 6.18), name, effect when it is missing."""
ENOUGH_FILES: Final = 1024
CAP_SYS_PTRACE: Final = 19


def trials() -> Iterable[Trial]:
    """Return the trials of this group."""
    for number, name, effect in CAPABILITIES:
        yield Trial(f"cap_{name.lower()}", _has(number), effect, "run as root")
    yield Trial(
        "yama_ptrace_scope",
        _read_ptrace_scope,
        "nothing can be snapshotted",
        "run as root; sysctl kernel.yama.ptrace_scope below 3",
    )
    yield Trial(
        "nofile_hard",
        _read_nofile,
        "no restore of processes with more descriptors",
        "ulimit -Hn before the start, or LimitNOFILE= of the service",
    )


def _effective() -> int:
    return parse_credentials(parse_fields(read_small("/proc/self/status"))).effective


def _has(number: int) -> Callable[[], None]:
    def attempt() -> None:
        if not _effective() >> number & 1:
            raise LookupError("not effective")

    return attempt


def _read_ptrace_scope() -> str:
    """Yama's scope 1 and 2 stop users only, 3 stops everybody."""
    try:
        scope = int(read_small("/proc/sys/kernel/yama/ptrace_scope"))
    except FileNotFoundError:
        return "no yama"
    if scope == 3 or (scope and not _effective() >> CAP_SYS_PTRACE & 1):
        raise ValueError(f"scope {scope}")
    return f"scope {scope}"


def _read_nofile() -> str:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < ENOUGH_FILES:
        raise ValueError(str(hard))
    return str(hard)

"""What planning may know of the machine it plans for: plain values, found by `ckpt.host.probe`.

Owns the shape only. A plan is a pure function of records and these facts.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
S32 = Annotated[int, msgspec.Meta(ge=-0x8000_0000, le=0x7FFF_FFFF)]
U64 = Annotated[int, msgspec.Meta(ge=0)]
"""Numbers as the kernel's structs hold them: an image with others does not decode."""
NGROUPS_MAX: Final = 65536
"""`include/uapi/linux/limits.h`, 6.18."""

RLIM_NLIMITS: Final = 16
"""`include/uapi/asm-generic/resource.h`, 6.18."""
RLIM_INFINITY: Final = (1 << 64) - 1


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The credentials of one task, numbers as its user namespace (which is ours) shows them."""

    uids: tuple[U32, U32, U32, U32] = (0, 0, 0, 0)
    """Real, effective, saved, file system."""
    gids: tuple[U32, U32, U32, U32] = (0, 0, 0, 0)
    groups: Annotated[tuple[U32, ...], msgspec.Meta(max_length=NGROUPS_MAX)] = ()
    inheritable: U64 = 0
    permitted: U64 = 0
    effective: U64 = 0
    bounding: U64 = 0
    ambient: U64 = 0
    no_new_privs: bool = False


class Scheduling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one thread is scheduled; fields of struct sched_attr, and I/O priority and CPUs."""

    policy: U32 = 0
    flags: U64 = 0
    nice: S32 = 0
    priority: U32 = 0
    runtime_ns: U64 = 0
    deadline_ns: U64 = 0
    period_ns: U64 = 0
    cpus: U64 = 0
    """Bit n: may run on CPU n. 0: not known."""
    ioprio: U32 = 0


class Inherited(msgspec.Struct, frozen=True, kw_only=True):
    """What a task that the restorer starts has from it, so that it need not be set.

    The defaults are an unremarkable root; a test that says nothing plans for that.
    """

    credentials: Credentials = Credentials()
    securebits: int = 0
    seccomp_mode: int = 0
    personality: int = 0
    scheduling: Scheduling = Scheduling()
    timer_slack_ns: int = 50_000
    limits: tuple[tuple[int, int], ...] = ()
    """(soft, hard) by RLIMIT_* number; empty: not known."""
    oom_score_adj: int = 0
    coredump_filter: int = 0x33
    speculation: tuple[str, str] = ("", "")
    """Speculation_Store_Bypass and SpeculationIndirectBranch, as /proc/PID/status words them."""
    cgroups: tuple[str, ...] = ()
    """Lines of /proc/self/cgroup."""
    task_flags: int = 0


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What planning may know of the machine it plans for. Made by `ckpt.host.probe`."""

    euid: int = 0
    nofile_hard: int = 1024
    monotonic_ns: int = 0
    boottime_ns: int = 0
    realtime_ns: int = 0
    snapshot_monotonic_ns: int = 0
    """The image's own clocks, in the target's time namespace, at the freeze."""
    snapshot_boottime_ns: int = 0
    snapshot_realtime_ns: int = 0
    features: dict[str, bool] = {}
    """Probe name -> there or not; see `ckpt.host.probe.FEATURES`."""
    inherited: Inherited = Inherited()
    online_cpus: int = 0
    """Bit n: CPU n is online. 0: not known."""

    def has_capability(self, number: int) -> bool:
        """Tell whether restored tasks begin with capability `number` (CAP_*)."""
        return bool(self.inherited.credentials.effective >> number & 1)

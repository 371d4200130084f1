"""What planning may know of the machine it plans for: plain values, found by `ckpt.host.probe`.

Owns the shape only. A plan is a pure function of records and these facts.
"""

from __future__ import annotations

from typing import Final

import msgspec

RLIM_NLIMITS: Final = 16
"""`include/uapi/asm-generic/resource.h`, 6.18."""
RLIM_INFINITY: Final = (1 << 64) - 1


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The credentials of one task, numbers as its user namespace (which is ours) shows them."""

    uids: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Real, effective, saved, file system."""
    gids: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: tuple[int, ...] = ()
    inheritable: int = 0
    permitted: int = 0
    effective: int = 0
    bounding: int = 0
    ambient: int = 0
    no_new_privs: bool = False


class Scheduling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one thread is scheduled; fields of struct sched_attr, and I/O priority and CPUs."""

    policy: int = 0
    flags: int = 0
    nice: int = 0
    priority: int = 0
    runtime_ns: int = 0
    deadline_ns: int = 0
    period_ns: int = 0
    cpus: int = 0
    """Bit n: may run on CPU n. 0: not known."""
    ioprio: int = 0


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

"""Find out what this machine and this user can do, by trying.

`probe_host` is the quick variant that every restore pays for; `check_features` tries everything
that the program can make use of, for `ckpt-bpf check`.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from typing import TYPE_CHECKING, Final

from ckpt.host.facts import (
    RLIM_INFINITY,
    RLIM_NLIMITS,
    Credentials,
    HostFacts,
    Inherited,
)
from ckpt.host.scheduling import read_online_cpus, read_scheduling
from ckpt.host.status import parse_credentials, parse_fields, parse_speculation, read_small
from ckpt.host.syscalls import syscall

if TYPE_CHECKING:
    from ckpt.host.features import Feature

# `arch/x86/entry/syscalls/syscall_64.tbl`, 6.18.
SYS_PERSONALITY: Final = 135
SYS_PRCTL: Final = 157
SYS_ARCH_PRCTL: Final = 158
# `include/uapi/linux/prctl.h`, `arch/x86/include/uapi/asm/prctl.h`, 6.18.
PR_GET_SECUREBITS: Final = 27
PR_GET_TIMERSLACK: Final = 30
PR_SET_THP_DISABLE: Final = 41
PR_GET_THP_DISABLE: Final = 42
PR_THP_DISABLE_EXCEPT_ADVISED: Final = 1 << 1
PR_TIMER_CREATE_RESTORE_IDS: Final = 77
PR_TIMER_CREATE_RESTORE_IDS_GET: Final = 2
ARCH_SET_CPUID: Final = 0x1012

SECBIT_NOROOT: Final = 1 << 0
SECBIT_KEEP_CAPS: Final = 1 << 4
"""`include/uapi/linux/securebits.h`"""


def probe_host() -> HostFacts:
    """Return what planning has to know of this machine; takes a millisecond or two."""
    return HostFacts(
        euid=os.geteuid(),
        nofile_hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1] & RLIM_INFINITY,
        monotonic_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        realtime_ns=time.clock_gettime_ns(time.CLOCK_REALTIME),
        features=probe_quick_features(),
        inherited=probe_inherited(),
        online_cpus=read_online_cpus(),
    )


def probe_quick_features() -> dict[str, bool]:
    """Try what plans ask about; the names are those of `check_features`."""
    return {
        "time_namespace": os.path.exists("/proc/self/ns/time"),
        "cpuid_faulting": _has_cpuid_faulting(),
        "timer_restore_ids": _has_timer_restore_ids(),
        "thp_except_advised": has_thp_except_advised(),
    }


def probe_inherited() -> Inherited:
    """Return what a task will have from us that we start and that executes the seed."""
    fields = parse_fields(read_small("/proc/self/status"))
    securebits = syscall(SYS_PRCTL, PR_GET_SECUREBITS, 0, 0, 0, 0)
    return Inherited(
        credentials=after_exec(parse_credentials(fields), securebits),
        securebits=securebits & ~SECBIT_KEEP_CAPS,
        seccomp_mode=int(fields.get(b"Seccomp", b"0")),
        personality=syscall(SYS_PERSONALITY, 0xFFFF_FFFF),
        scheduling=read_scheduling(0),
        timer_slack_ns=syscall(SYS_PRCTL, PR_GET_TIMERSLACK, 0, 0, 0, 0),
        limits=tuple(_limit(number) for number in range(RLIM_NLIMITS)),
        oom_score_adj=int(read_small("/proc/self/oom_score_adj")),
        coredump_filter=int(read_small("/proc/self/coredump_filter"), 16),
        speculation=parse_speculation(fields),
        cgroups=tuple(_read_lines("/proc/self/cgroup")),
        task_flags=int(read_small("/proc/self/stat").rpartition(b")")[2].split()[6]),
    )


def _limit(number: int) -> tuple[int, int]:
    soft, hard = resource.getrlimit(number)
    return soft & RLIM_INFINITY, hard & RLIM_INFINITY


def _read_lines(path: str) -> list[str]:
    return read_small(path).decode("utf-8", "backslashreplace").splitlines()


def after_exec(before: Credentials, securebits: int) -> Credentials:
    """Return the credentials after execve of a file without capabilities or set-id bits.

    `cap_bprm_creds_from_file`, `security/commoncap.c`, 6.18.
    """
    is_root = 0 in before.uids[:2] and not securebits & SECBIT_NOROOT
    permitted = before.ambient
    if is_root:
        permitted |= before.inheritable | before.bounding
    effective = permitted if is_root and before.uids[1] == 0 else before.ambient
    return Credentials(
        (*before.uids[:2], before.uids[1], before.uids[1]),
        (*before.gids[:2], before.gids[1], before.gids[1]),
        before.groups,
        before.inheritable,
        permitted,
        effective,
        before.bounding,
        before.ambient,
        before.no_new_privs,
    )


def _has_cpuid_faulting() -> bool:
    """Try to allow CPUID, which is allowed already: ENODEV when the CPU knows no other mode."""
    try:
        syscall(SYS_ARCH_PRCTL, ARCH_SET_CPUID, 1)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EINVAL):
            return False
        raise
    return True


def _has_timer_restore_ids() -> bool:
    try:
        syscall(SYS_PRCTL, PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    return True


def has_thp_except_advised() -> bool:
    """Try PR_SET_THP_DISABLE with its flag on ourselves, and take it back."""
    already = syscall(SYS_PRCTL, PR_GET_THP_DISABLE, 0, 0, 0, 0)
    try:
        syscall(SYS_PRCTL, PR_SET_THP_DISABLE, 1, PR_THP_DISABLE_EXCEPT_ADVISED, 0, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return False
        raise
    syscall(SYS_PRCTL, PR_SET_THP_DISABLE, already & 1, already & ~1, 0, 0)
    return True


def check_features() -> list[Feature]:
    """Try everything that the program can make use of; leaves nothing behind."""
    from ckpt.host.features import try_all

    return try_all()

"""Names of constants that only planned calls use; the others are in `call_flags`.

Source: the uapi headers that each set names, Linux 6.18; `tests/abi` compares with those installed.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Constants(NamedTuple):
    """Names by value; `is_flags`: a value is the sum of some."""

    header: str
    names: dict[int, str]
    is_flags: bool = False


def _choices(header: str, prefix: str, names: str, start: int = 0) -> Constants:
    return Constants(header, {start + at: prefix + name for at, name in enumerate(names.split())})


NEWER: Final = frozenset(
    (
        "PR_SET_MDWE",
        "PR_SET_MEMORY_MERGE",
        "PR_TIMER_CREATE_RESTORE_IDS",
        "PR_TIMER_CREATE_RESTORE_IDS_OFF",
        "PR_TIMER_CREATE_RESTORE_IDS_ON",
        "PR_TIMER_CREATE_RESTORE_IDS_GET",
        "MPOL_WEIGHTED_INTERLEAVE",
    )
)
"""Not in the headers of Linux 6.1."""


# fmt: off
SETS: Final[dict[str, Constants]] = {
    "sa": Constants("asm/signal.h", {
        0x1: "SA_NOCLDSTOP", 0x2: "SA_NOCLDWAIT", 0x4: "SA_SIGINFO", 0x400: "SA_UNSUPPORTED",
        0x800: "SA_EXPOSE_TAGBITS", 0x4000000: "SA_RESTORER", 0x8000000: "SA_ONSTACK",
        0x10000000: "SA_RESTART", 0x40000000: "SA_NODEFER", 0x80000000: "SA_RESETHAND"}, True),
    "ss": Constants("linux/signal.h", {
        1: "SS_ONSTACK", 2: "SS_DISABLE", 0x80000000: "SS_AUTODISARM"}, True),
    "sigev": Constants("linux/signal.h", {
        0: "SIGEV_SIGNAL", 1: "SIGEV_NONE", 2: "SIGEV_THREAD", 4: "SIGEV_THREAD_ID"}),
    "owner": _choices("linux/fcntl.h", "F_OWNER_", "TID PID PGRP"),
    "lock_type": _choices("linux/fcntl.h", "F_", "RDLCK WRLCK UNLCK"),
    "mempolicy": _choices("linux/mempolicy.h", "MPOL_",
        "DEFAULT PREFERRED BIND INTERLEAVE LOCAL PREFERRED_MANY WEIGHTED_INTERLEAVE"),
    "seccomp": _choices("linux/seccomp.h", "SECCOMP_",
        "SET_MODE_STRICT SET_MODE_FILTER GET_ACTION_AVAIL GET_NOTIF_SIZES"),
    "seccomp_flags": Constants("linux/seccomp.h", {
        1: "SECCOMP_FILTER_FLAG_TSYNC", 2: "SECCOMP_FILTER_FLAG_LOG",
        4: "SECCOMP_FILTER_FLAG_SPEC_ALLOW", 8: "SECCOMP_FILTER_FLAG_NEW_LISTENER",
        16: "SECCOMP_FILTER_FLAG_TSYNC_ESRCH",
        32: "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}, True),
    "ioprio_who": _choices("linux/ioprio.h", "IOPRIO_WHO_", "PROCESS PGRP USER", 1),
    "arch_prctl": Constants("asm/prctl.h", {
        0x1001: "ARCH_SET_GS", 0x1002: "ARCH_SET_FS", 0x1003: "ARCH_GET_FS",
        0x1004: "ARCH_GET_GS", 0x1011: "ARCH_GET_CPUID", 0x1012: "ARCH_SET_CPUID",
        0x1021: "ARCH_GET_XCOMP_SUPP", 0x1022: "ARCH_GET_XCOMP_PERM",
        0x1023: "ARCH_REQ_XCOMP_PERM"}),
    "prctl": Constants("linux/prctl.h", {
        1: "PR_SET_PDEATHSIG", 4: "PR_SET_DUMPABLE", 8: "PR_SET_KEEPCAPS", 15: "PR_SET_NAME",
        22: "PR_SET_SECCOMP", 24: "PR_CAPBSET_DROP", 26: "PR_SET_TSC", 28: "PR_SET_SECUREBITS",
        29: "PR_SET_TIMERSLACK", 33: "PR_MCE_KILL", 35: "PR_SET_MM",
        36: "PR_SET_CHILD_SUBREAPER", 38: "PR_SET_NO_NEW_PRIVS", 41: "PR_SET_THP_DISABLE",
        47: "PR_CAP_AMBIENT", 53: "PR_SET_SPECULATION_CTRL", 57: "PR_SET_IO_FLUSHER",
        59: "PR_SET_SYSCALL_USER_DISPATCH", 65: "PR_SET_MDWE", 67: "PR_SET_MEMORY_MERGE",
        77: "PR_TIMER_CREATE_RESTORE_IDS", 0x53564D41: "PR_SET_VMA"}),
    "set_mm": Constants("linux/prctl.h", {14: "PR_SET_MM_MAP"}),
    "set_vma": Constants("linux/prctl.h", {0: "PR_SET_VMA_ANON_NAME"}),
    "ambient": _choices("linux/prctl.h", "PR_CAP_AMBIENT_", "IS_SET RAISE LOWER CLEAR_ALL", 1),
    "restore_ids": _choices("linux/prctl.h", "PR_TIMER_CREATE_RESTORE_IDS_", "OFF ON GET"),
    "ioctl": Constants("sys/ioctl.h", {0x540E: "TIOCSCTTY"}),
    "tick_ioctl": Constants("linux/timerfd.h", {0x40085400: "TFD_IOC_SET_TICKS"}),
    "timerfd": Constants("linux/timerfd.h", {
        1: "TFD_TIMER_ABSTIME", 2: "TFD_TIMER_CANCEL_ON_SET"}, True),
    "close_range": Constants("linux/close_range.h", {
        2: "CLOSE_RANGE_UNSHARE", 4: "CLOSE_RANGE_CLOEXEC"}, True),
    "namespace": Constants("linux/sched.h", {
        0x80: "CLONE_NEWTIME", 0x20000: "CLONE_NEWNS", 0x2000000: "CLONE_NEWCGROUP",
        0x4000000: "CLONE_NEWUTS", 0x8000000: "CLONE_NEWIPC", 0x10000000: "CLONE_NEWUSER",
        0x20000000: "CLONE_NEWPID", 0x40000000: "CLONE_NEWNET"}, True),
    "dup3": Constants("linux/fcntl.h", {0o2000000: "O_CLOEXEC"}, True),
    "rseq": Constants("linux/rseq.h", {1: "RSEQ_FLAG_UNREGISTER"}, True),
    "mlock2": Constants("linux/mman.h", {1: "MLOCK_ONFAULT"}, True),
}
# fmt: on


def name_bits(constants: Constants, value: int) -> str:
    """Return a value by name: `A|B|0x40` for flags, the number itself where it has no name."""
    value &= (1 << 64) - 1
    if not constants.is_flags:
        return constants.names.get(value & 0xFFFF_FFFF) or str(value)
    rest, parts = value & 0xFFFF_FFFF, []
    for bit, name in constants.names.items():
        if rest & bit == bit:
            parts.append(name)
            rest &= ~bit
    return "|".join([*parts, *([hex(rest)] if rest else [])]) or "0"

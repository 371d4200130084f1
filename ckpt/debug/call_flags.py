"""Flags and choices of system calls by name: uapi headers, Linux 6.18.

Each set names the headers that define it; `tests/abi` compares the values with the installed ones.
A value in a set of choices is one of them; in a set of flags it is their sum.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Names(NamedTuple):
    """One set of names."""

    headers: tuple[str, ...]
    prefix: str
    """What every name begins with, left out below."""
    values: dict[str, int]
    choice_mask: int = 0
    """Bits that are one choice, not flags; all of them if negative."""
    since: tuple[int, int] = (0, 0)
    """First version of the kernel whose headers have them all, where that is after 6.1."""


def _count(names: str, start: int = 0) -> dict[str, int]:
    return {name: start + at for at, name in enumerate(names.split())}


def _bits(names: str, start: int = 0) -> dict[str, int]:
    return {name: 1 << start + at for at, name in enumerate(names.split()) if name != "-"}


CHOICE: Final = -1

# fmt: off
SETS: Final[dict[str, Names]] = {
    "open": Names(("fcntl.h",), "O_", {
        "RDONLY": 0, "WRONLY": 1, "RDWR": 2, "CREAT": 0o100, "EXCL": 0o200, "NOCTTY": 0o400,
        "TRUNC": 0o1000, "APPEND": 0o2000, "NONBLOCK": 0o4000, "DSYNC": 0o10000,
        "ASYNC": 0o20000, "DIRECT": 0o40000, "DIRECTORY": 0o200000, "NOFOLLOW": 0o400000,
        "NOATIME": 0o1000000, "CLOEXEC": 0o2000000, "PATH": 0o10000000}, 3),
    "prot": Names(("sys/mman.h",), "PROT_", {"NONE": 0, "READ": 1, "WRITE": 2, "EXEC": 4}),
    "map": Names(("linux/mman.h",), "MAP_", {
        "SHARED": 1, "PRIVATE": 2, "SHARED_VALIDATE": 3, "FIXED": 0x10, "ANONYMOUS": 0x20,
        "32BIT": 0x40, "GROWSDOWN": 0x100, "LOCKED": 0x2000, "NORESERVE": 0x4000,
        "POPULATE": 0x8000, "NONBLOCK": 0x10000, "STACK": 0x20000, "HUGETLB": 0x40000,
        "SYNC": 0x80000, "FIXED_NOREPLACE": 0x100000}, 0xF),
    "msg": Names(("sys/socket.h",), "MSG_", {
        "OOB": 1, "PEEK": 2, "DONTROUTE": 4, "CTRUNC": 8, "TRUNC": 0x20, "DONTWAIT": 0x40,
        "EOR": 0x80, "WAITALL": 0x100, "CONFIRM": 0x800, "ERRQUEUE": 0x2000, "NOSIGNAL": 0x4000,
        "MORE": 0x8000, "WAITFORONE": 0x10000, "FASTOPEN": 0x20000000,
        "CMSG_CLOEXEC": 0x40000000}),
    "wait": Names(("linux/wait.h",), "W", {
        "NOHANG": 1, "UNTRACED": 2, "EXITED": 4, "CONTINUED": 8, "NOWAIT": 0x1000000}),
    "idtype": Names(("linux/wait.h",), "P_", _count("ALL PID PGID PIDFD"), CHOICE),
    "clone": Names(("linux/sched.h",), "CLONE_", {
        "VM": 0x100, "FS": 0x200, "FILES": 0x400, "SIGHAND": 0x800, "PIDFD": 0x1000,
        "PTRACE": 0x2000, "VFORK": 0x4000, "PARENT": 0x8000, "THREAD": 0x10000,
        "NEWNS": 0x20000, "SYSVSEM": 0x40000, "SETTLS": 0x80000, "PARENT_SETTID": 0x100000,
        "CHILD_CLEARTID": 0x200000, "DETACHED": 0x400000, "UNTRACED": 0x800000,
        "CHILD_SETTID": 0x1000000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000,
        "NEWIPC": 0x8000000, "NEWUSER": 0x10000000, "NEWPID": 0x20000000,
        "NEWNET": 0x40000000, "IO": 0x80000000}),
    "futex": Names(("linux/futex.h",), "FUTEX_", _count(
        "WAIT WAKE FD REQUEUE CMP_REQUEUE WAKE_OP LOCK_PI UNLOCK_PI TRYLOCK_PI WAIT_BITSET "
        "WAKE_BITSET WAIT_REQUEUE_PI CMP_REQUEUE_PI LOCK_PI2"), CHOICE),
    "clock": Names(("time.h",), "CLOCK_", {
        "REALTIME": 0, "MONOTONIC": 1, "PROCESS_CPUTIME_ID": 2, "THREAD_CPUTIME_ID": 3,
        "MONOTONIC_RAW": 4, "REALTIME_COARSE": 5, "MONOTONIC_COARSE": 6, "BOOTTIME": 7,
        "REALTIME_ALARM": 8, "BOOTTIME_ALARM": 9, "TAI": 11}, CHOICE),
    "timer": Names(("time.h",), "TIMER_", {"ABSTIME": 1}),
    "family": Names(("sys/socket.h",), "AF_", {
        "UNSPEC": 0, "UNIX": 1, "INET": 2, "INET6": 10, "NETLINK": 16, "PACKET": 17,
        "ALG": 38, "VSOCK": 40, "XDP": 44}, CHOICE),
    "socket": Names(("sys/socket.h",), "SOCK_", {
        "STREAM": 1, "DGRAM": 2, "RAW": 3, "RDM": 4, "SEQPACKET": 5, "NONBLOCK": 0o4000,
        "CLOEXEC": 0o2000000}, 0xF),
    "shutdown": Names(("sys/socket.h",), "SHUT_", _count("RD WR RDWR"), CHOICE),
    "sol": Names(("sys/socket.h", "netinet/in.h"), "SOL_", {
        "IP": 0, "SOCKET": 1, "IPV6": 41, "NETLINK": 270}, CHOICE),
    "epoll": Names(("sys/epoll.h",), "EPOLL", {"_CLOEXEC": 0o2000000}),
    "epoll_op": Names(("sys/epoll.h",), "EPOLL_CTL_", _count("ADD DEL MOD", 1), CHOICE),
    "poll": Names(("poll.h",), "POLL", {
        "IN": 1, "PRI": 2, "OUT": 4, "ERR": 8, "HUP": 0x10, "NVAL": 0x20, "RDNORM": 0x40,
        "RDBAND": 0x80, "WRNORM": 0x100, "WRBAND": 0x200, "MSG": 0x400, "RDHUP": 0x2000}),
    "fcntl": Names(("linux/fcntl.h",), "F_", {
        **_count("DUPFD GETFD SETFD GETFL SETFL GETLK SETLK SETLKW SETOWN GETOWN SETSIG GETSIG"),
        "SETOWN_EX": 15, "GETOWN_EX": 16, "OFD_GETLK": 36, "OFD_SETLK": 37, "OFD_SETLKW": 38,
        "SETLEASE": 1024, "GETLEASE": 1025, "NOTIFY": 1026, "DUPFD_CLOEXEC": 1030,
        "SETPIPE_SZ": 1031, "GETPIPE_SZ": 1032, "ADD_SEALS": 1033, "GET_SEALS": 1034}, CHOICE),
    "lock": Names(("sys/file.h",), "LOCK_", {"SH": 1, "EX": 2, "NB": 4, "UN": 8}),
    "whence": Names(("linux/fs.h",), "SEEK_", _count("SET CUR END DATA HOLE"), CHOICE),
    "access": Names(("unistd.h",), "", {"F_OK": 0, "X_OK": 1, "W_OK": 2, "R_OK": 4}),
    "at": Names(("fcntl.h",), "AT_", {
        "SYMLINK_NOFOLLOW": 0x100, "REMOVEDIR": 0x200, "SYMLINK_FOLLOW": 0x400,
        "NO_AUTOMOUNT": 0x800, "EMPTY_PATH": 0x1000, "RECURSIVE": 0x8000}),
    "how": Names(("signal.h",), "SIG_", _count("BLOCK UNBLOCK SETMASK"), CHOICE),
    "sa": Names(("linux/signal.h",), "SA_", {
        "NOCLDSTOP": 1, "NOCLDWAIT": 2, "SIGINFO": 4, "ONSTACK": 0x08000000, "RESTART": 0x10000000,
        "NODEFER": 0x40000000, "RESETHAND": 0x80000000}),
    "itimer": Names(("sys/time.h",), "ITIMER_", _count("REAL VIRTUAL PROF"), CHOICE),
    "rlimit": Names(("sys/resource.h",), "RLIMIT_", _count(
        "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE "
        "RTPRIO RTTIME"), CHOICE),
    "madvise": Names(("linux/mman.h",), "MADV_", {
        "NORMAL": 0, "RANDOM": 1, "SEQUENTIAL": 2, "WILLNEED": 3, "DONTNEED": 4, "FREE": 8,
        "REMOVE": 9, "DONTFORK": 10, "DOFORK": 11, "MERGEABLE": 12, "UNMERGEABLE": 13,
        "HUGEPAGE": 14, "NOHUGEPAGE": 15, "DONTDUMP": 16, "DODUMP": 17, "WIPEONFORK": 18,
        "KEEPONFORK": 19, "COLD": 20, "PAGEOUT": 21, "POPULATE_READ": 22, "POPULATE_WRITE": 23,
        "DONTNEED_LOCKED": 24, "COLLAPSE": 25}, CHOICE),
    "mremap": Names(("linux/mman.h",), "MREMAP_", {"MAYMOVE": 1, "FIXED": 2, "DONTUNMAP": 4}),
    "msync": Names(("sys/mman.h",), "MS_", {"ASYNC": 1, "INVALIDATE": 2, "SYNC": 4}),
    "mcl": Names(("sys/mman.h",), "MCL_", {"CURRENT": 1, "FUTURE": 2, "ONFAULT": 4}),
    "ptrace": Names(("linux/ptrace.h",), "PTRACE_", {
        "TRACEME": 0, "PEEKTEXT": 1, "PEEKDATA": 2, "PEEKUSR": 3, "POKETEXT": 4, "POKEDATA": 5,
        "POKEUSR": 6, "CONT": 7, "KILL": 8, "SINGLESTEP": 9, "ATTACH": 16, "DETACH": 17,
        "SYSCALL": 24, "SETOPTIONS": 0x4200, "GETEVENTMSG": 0x4201, "GETSIGINFO": 0x4202,
        "SETSIGINFO": 0x4203, "GETREGSET": 0x4204, "SETREGSET": 0x4205, "SEIZE": 0x4206,
        "INTERRUPT": 0x4207, "LISTEN": 0x4208, "PEEKSIGINFO": 0x4209, "GETSIGMASK": 0x420A,
        "SETSIGMASK": 0x420B}, CHOICE),
    "prctl": Names(("linux/prctl.h",), "PR_", {
        "SET_PDEATHSIG": 1, "GET_PDEATHSIG": 2, "GET_DUMPABLE": 3, "SET_DUMPABLE": 4,
        "SET_KEEPCAPS": 8, "SET_NAME": 15, "GET_NAME": 16, "GET_SECCOMP": 21, "SET_SECCOMP": 22,
        "CAPBSET_READ": 23, "CAPBSET_DROP": 24, "SET_SECUREBITS": 28, "SET_TIMERSLACK": 29,
        "SET_MM": 35, "SET_CHILD_SUBREAPER": 36, "SET_NO_NEW_PRIVS": 38, "CAP_AMBIENT": 47},
        CHOICE),
    "arch_prctl": Names(("asm/prctl.h",), "ARCH_", {
        "SET_GS": 0x1001, "SET_FS": 0x1002, "GET_FS": 0x1003, "GET_GS": 0x1004}, CHOICE),
    "policy": Names(("linux/sched.h",), "SCHED_", {
        "NORMAL": 0, "FIFO": 1, "RR": 2, "BATCH": 3, "IDLE": 5, "DEADLINE": 6}, CHOICE),
    "ipc": Names(("sys/ipc.h",), "IPC_", {"CREAT": 0o1000, "EXCL": 0o2000, "NOWAIT": 0o4000}),
    "splice": Names(("fcntl.h",), "SPLICE_F_", _bits("MOVE NONBLOCK MORE GIFT")),
    "random": Names(("linux/random.h",), "GRND_", _bits("NONBLOCK RANDOM INSECURE")),
    "memfd": Names(("linux/memfd.h",), "MFD_", _bits("CLOEXEC ALLOW_SEALING HUGETLB")),
    "eventfd": Names(("sys/eventfd.h",), "EFD_", {
        "SEMAPHORE": 1, "NONBLOCK": 0o4000, "CLOEXEC": 0o2000000}),
    "futex2": Names(("linux/futex.h",), "FUTEX2_", {
        "SIZE_U8": 0, "SIZE_U16": 1, "SIZE_U32": 2, "SIZE_U64": 3, "NUMA": 4, "PRIVATE": 128},
        3, (6, 7)),
    "uring": Names(("linux/io_uring.h",), "IORING_ENTER_", _bits(
        "GETEVENTS SQ_WAKEUP SQ_WAIT EXT_ARG REGISTERED_RING")),
    "membarrier": Names(("linux/membarrier.h",), "MEMBARRIER_CMD_", {
        "QUERY": 0, **_bits("GLOBAL GLOBAL_EXPEDITED REGISTER_GLOBAL_EXPEDITED PRIVATE_EXPEDITED "
        "REGISTER_PRIVATE_EXPEDITED PRIVATE_EXPEDITED_SYNC_CORE "
        "REGISTER_PRIVATE_EXPEDITED_SYNC_CORE PRIVATE_EXPEDITED_RSEQ "
        "REGISTER_PRIVATE_EXPEDITED_RSEQ")}, CHOICE),
    "ioctl": Names(("sys/ioctl.h",), "", {
        "TCGETS": 0x5401, "TCSETS": 0x5402, "TCSETSW": 0x5403, "TCSETSF": 0x5404,
        "TCSBRK": 0x5409, "TIOCSCTTY": 0x540E, "TIOCGPGRP": 0x540F, "TIOCSPGRP": 0x5410,
        "TIOCGWINSZ": 0x5413, "TIOCSWINSZ": 0x5414, "FIONREAD": 0x541B, "FIONBIO": 0x5421,
        "FIONCLEX": 0x5450, "FIOCLEX": 0x5451}, CHOICE),
}
# fmt: on


_SA_RESTORER: Final = 0x04000000


def name_sa_flags(flags: int) -> str:
    """Return the flags of a disposition; SA_RESTORER, which every libc sets, is left out."""
    rest = flags & 0xFFFF_FFFF & ~_SA_RESTORER
    return name_value("sa", rest) if rest else ""


def name_value(which: str, value: int) -> str:
    """Return a value as the names of its bits, `O_RDWR|O_CLOEXEC`; what is left over in hex."""
    names = SETS[which]
    mask = names.choice_mask if names.choice_mask >= 0 else (1 << 64) - 1
    parts = []
    if mask:
        chosen = [name for name, number in names.values.items() if number == value & mask]
        if chosen:
            parts.append(names.prefix + chosen[0])
        elif value & mask or names.choice_mask < 0:
            parts.append(f"{value & mask:#x}")
    rest = value & ~mask
    for name, bit in names.values.items():
        if bit & ~mask and rest & bit == bit:
            parts.append(names.prefix + name)
            rest &= ~bit
    if rest:
        parts.append(f"{rest:#x}")
    zero = next((names.prefix + name for name, bit in names.values.items() if bit == 0), "0")
    return "|".join(parts) or zero

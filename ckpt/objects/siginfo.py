"""siginfo_t as bytes: what a queued signal says. Shared by the modules that capture or queue it.

Layout: `include/uapi/asm-generic/siginfo.h`, kernel 6.18; 128 bytes of which the kernel keeps 48.
"""

from __future__ import annotations

import signal
import struct
from typing import Final

SIGINFO_BYTES: Final = 128
SI_USER: Final = 0
SI_KERNEL: Final = 0x80
SI_TIMER: Final = -2
"""A POSIX timer's signal; its id stands where `si_pid` stands for others."""

SIGKILL: Final = int(signal.SIGKILL)
SIGSTOP: Final = int(signal.SIGSTOP)
SIGNALS: Final = 64
_ALARMS: Final = frozenset((int(signal.SIGALRM), int(signal.SIGVTALRM), int(signal.SIGPROF)))
SYNCHRONOUS: Final = frozenset(
    map(
        int,
        (
            signal.SIGILL,
            signal.SIGTRAP,
            signal.SIGBUS,
            signal.SIGFPE,
            signal.SIGSEGV,
            signal.SIGSYS,
        ),
    )
)
"""SYNCHRONOUS_MASK of kernel/signal.c, 6.18: faults, dequeued before everything else."""

_HEAD: Final = struct.Struct("<iii4xi")
"""si_signo, si_errno, si_code; then the first word of the union (si_pid, or si_tid of a timer)."""


def signo_of(info: bytes) -> int:
    """Return si_signo."""
    return int(_HEAD.unpack_from(info)[0])


def timer_id_of(info: bytes) -> int | None:
    """Return the id of the POSIX timer that sent this signal, None when no timer did."""
    _, _, code, word = _HEAD.unpack_from(info)
    return word if code == SI_TIMER else None


def is_alarm(info: bytes) -> bool:
    """Tell whether a timer of setitimer sent this signal: there is one of each kind at most."""
    signo, _, code, _ = _HEAD.unpack_from(info)
    return code == SI_KERNEL and signo in _ALARMS


def bare_siginfo(signo: int) -> bytes:
    """Return what the kernel makes up for a pending signal that has no queue entry.

    `collect_signal` (kernel/signal.c) then reports SI_USER from pid 0 and uid 0.
    """
    return _HEAD.pack(signo, 0, SI_USER, 0).ljust(SIGINFO_BYTES, b"\0")


def signals_in(mask: int) -> list[int]:
    """Return the signal numbers of a mask, in order."""
    return [number for number in range(1, SIGNALS + 1) if mask >> (number - 1) & 1]


def mask_of(numbers: list[int]) -> int:
    """Return the mask of signal numbers."""
    mask = 0
    for number in numbers:
        mask |= 1 << (number - 1)
    return mask


def name_of(signo: int) -> str:
    """Return SIGUSR1, SIGRTMIN+3: how people write the number (SIGRTMIN is the kernel's, 32)."""
    try:
        name = signal.Signals(signo).name
    except ValueError:
        return f"SIGRTMIN+{signo - 32}"
    return f"SIGRTMIN+{signo - 32}" if name.startswith("SIGRT") else name


def names_in(mask: int) -> str:
    """Return the signals of a mask as text: `none`, `all`, `SIGINT, SIGTERM`."""
    numbers = signals_in(mask)
    if not numbers:
        return "none"
    return "all" if len(numbers) == SIGNALS else ", ".join(name_of(number) for number in numbers)

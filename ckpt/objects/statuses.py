"""The /proc/TID/status of every thread, read once for all object modules that look into it.

With a BPF view in hand, threads that share one `struct cred` and whose flags are alike are read
through one of them: a thousand threads of one process are then one read.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.host.status import parse_fields, read_small

if TYPE_CHECKING:
    from ckpt.host.kernel_view import ThreadView
    from ckpt.objects.base import Process

SPECULATION_FLAGS: Final = 0b111_0000_0110_0110_0000
"""Bits in which TIF_SSBD, TIF_SPEC_IB and TIF_SPEC_L1D_FLUSH have stood in thread_info.flags.

`arch/x86/include/asm/thread_info.h`: 5 or 6, 9, 10 until the generic TIF bits came, then 16 to 18.
A bit too many costs a read, no more.
"""


class Statuses(NamedTuple):
    """Status files of a process, as bytes."""

    raw: dict[int, bytes]
    """By tid, of the threads that were read."""
    speaks_for: dict[int, int]
    """Every thread's tid to the tid whose status is also its own, as far as credentials go."""

    def groups(self, *ranges: tuple[bytes, bytes]) -> list[tuple[list[int], dict[bytes, bytes]]]:
        """Group threads that are alike in `ranges` (first line, line after); parse each once."""
        parts: dict[int, bytes] = {
            tid: b"".join(cut(raw, first, last) for first, last in ranges)
            for tid, raw in self.raw.items()
        }
        tids: dict[bytes, list[int]] = {}
        for tid, reader in self.speaks_for.items():
            tids.setdefault(parts[reader], []).append(tid)
        return [(group, parse_fields(part)) for part, group in tids.items()]


def cut(raw: bytes, first: bytes, last: bytes) -> bytes:
    """Return the lines from the one named `first` up to, without, the one named `last`."""
    start = raw.find(b"\n" + first + b":")
    end = raw.find(b"\n" + last + b":", start)
    return raw[start + 1 : len(raw) if end < 0 else end + 1]


_frozen: weakref.WeakKeyDictionary[Process, Statuses] = weakref.WeakKeyDictionary()


def read_statuses(process: Process) -> Statuses:
    """Read the status of the living threads of a frozen process, the first time it is asked for."""
    found = _frozen.get(process)
    if found is None:
        found = _frozen[process] = _read(process)
    return found


def _read(process: Process) -> Statuses:
    readers: dict[object, int] = {}
    speaks_for = {}
    for tid in process.tids:
        speaks_for[tid] = readers.setdefault(_likeness(tid, process.thread_views.get(tid)), tid)
    raw = {tid: read_small(process.path("status", tid)) for tid in readers.values()}
    return Statuses(raw, speaks_for)


def _likeness(tid: int, view: ThreadView | None) -> object:
    if view is None or not view.cred or view.ti_flags is None:
        return tid
    if view.ti_flags & SPECULATION_FLAGS:
        return tid
    return view.cred, view.no_new_privs, view.seccomp_mode

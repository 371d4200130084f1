"""A kernel view of a process that we may not look into: what everybody can read in /proc."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from ckpt.errors import CaptureError
from ckpt.host.kernel_view import KernelView, ThreadView
from ckpt.host.proc_tasks import parse_stat
from ckpt.host.status import parse_fields, read_small

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBERS: Final = (
    *("nvcsw", "nivcsw", "robust_list", "personality", "timer_slack_ns", "blocked", "pending"),
    *("policy", "rt_priority", "seccomp_mode", "seccomp_filter_count"),
)
"""Fields that have no None; 0 where nothing is known."""
_STATES: Final = {b"R": 0, b"S": 1, b"D": 2, b"T": 4, b"t": 8, b"I": 0x402, b"P": 0x40}
_EXITS: Final = {b"Z": 0x20, b"X": 0x10}


def read_bare_view(tgid: int) -> KernelView:
    """Read what needs no permission.

    Raises:
        CaptureError: there is no such process.
    """
    threads = {thread.tid: thread for thread in _threads(tgid)}
    if not threads:
        raise CaptureError("no such process", where=f"process {tgid}")
    return KernelView(
        source="proc",
        tgid=tgid,
        observed_ns=time.monotonic_ns(),
        boottime_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        threads=threads,
        process=None,
        mms={},
    )


def _threads(tgid: int) -> Iterator[ThreadView]:
    try:
        names = os.listdir(f"/proc/{tgid}/task")
    except FileNotFoundError:
        return
    for name in sorted(names, key=int):
        try:
            yield _read_thread(tgid, int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue


def _read_thread(tgid: int, tid: int) -> ThreadView:
    folder = f"/proc/{tgid}/task/{tid}"
    text = read_small(f"{folder}/stat")
    stat, status = parse_stat(text), parse_fields(read_small(f"{folder}/status"))
    fields: dict[str, Any] = dict.fromkeys(ThreadView.__struct_fields__)
    fields |= dict.fromkeys(_NUMBERS, 0)
    fields |= {
        "tid": tid,
        "tgid": tgid,
        "comm": text[text.index(b"(") + 1 : text.rindex(b")")].decode("utf-8", "surrogateescape"),
        "state": _STATES.get(stat.state, 0),
        "exit_state": _EXITS.get(stat.state, 0),
        "flags": stat.flags,
        "observed_ns": time.monotonic_ns(),
        "blocked": int(status.get(b"SigBlk", b"0"), 16),
        "pending": int(status.get(b"SigPnd", b"0"), 16),
        "tracer_tid": int(status.get(b"TracerPid", b"0")),
        "parent_tgid": stat.parent,
        "no_new_privs": status.get(b"NoNewPrivs") == b"1",
        "seccomp_mode": int(status.get(b"Seccomp", b"0")),
        "seccomp_filter_count": int(status.get(b"Seccomp_filters", b"0")),
        "nvcsw": int(status.get(b"voluntary_ctxt_switches", b"0")),
        "nivcsw": int(status.get(b"nonvoluntary_ctxt_switches", b"0")),
    }
    return ThreadView(**fields)

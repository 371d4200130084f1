"""Where threads stand, without BPF: from /proc/TID/syscall, stack and sched alone."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from ckpt.arch.x86_64.decode import CALL_SIZE, CallEntry, find_call
from ckpt.arch.x86_64.regs import REG_NAMES, X86Regs
from ckpt.debug.text import escape_bytes
from ckpt.host.proc_tasks import parse_stat
from ckpt.host.proc_waits import measure_task_clock, parse_call, parse_exec_start
from ckpt.host.status import read_small
from ckpt.host.surroundings import ThreadPlace

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.host.kernel_view import ThreadView

_ENOSYS: Final = (1 << 64) - 38
"""What rax holds while a call is being carried out."""
_NO_CALL: Final = (1 << 64) - 1
_ARGUMENTS: Final = {
    False: ("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    True: ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
}
_RUNNING: Final = b"running"


def read_places(tgid: int, views: Iterable[ThreadView]) -> Iterator[ThreadPlace]:
    """Yield where each thread of a process stands, as far as we may know it."""
    offsets: dict[int, int | None] = {}
    for view in views:
        folder = f"/proc/{tgid}/task/{view.tid}"
        with contextlib.suppress(OSError):
            yield _read_place(folder, view, offsets)


def _read_place(folder: str, view: ThreadView, offsets: dict[int, int | None]) -> ThreadPlace:
    text = _read(f"{folder}/syscall")
    is_running = text.startswith(_RUNNING) or not text
    found = None if is_running else parse_call(text)
    names = dict.fromkeys(REG_NAMES, 0) | {"orig_rax": _NO_CALL}
    is_i386 = False
    if found is not None:
        nr, args, sp, ip = found
        is_i386 = _find_entry(folder, ip) is CallEntry.INT80
        names |= {"orig_rax": nr & (1 << 64) - 1, "rax": _ENOSYS, "rsp": sp, "rip": ip}
        names |= dict(zip(_ARGUMENTS[is_i386], args, strict=False))
    cpu = parse_stat(read_small(f"{folder}/stat")).processor
    now_ns = time.monotonic_ns()
    return ThreadPlace(
        tid=view.tid,
        cpu=cpu,
        on_cpu=text.startswith(_RUNNING),
        state=view.state,
        exit_state=view.exit_state,
        is_i386_call=is_i386,
        is_mmap_contended=False,
        mmap_lock_owner=0,
        observed_ns=now_ns,
        off_cpu_ns=_off_cpu_ns(folder, cpu, now_ns, offsets) if view.state else None,
        is_off_cpu_exact=False,
        regs=X86Regs(**names),
        has_all_regs=False,
        kernel_stack=tuple(_read_stack(folder)),
    )


def _read(path: str) -> bytes:
    """Return a file's text, empty when we may not read it."""
    try:
        return read_small(path)
    except PermissionError:
        return b""


def _find_entry(folder: str, ip: int) -> CallEntry:
    try:
        fd = os.open(f"{folder}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return CallEntry.NONE
    try:
        return find_call(os.pread(fd, CALL_SIZE, ip - CALL_SIZE))
    except (OSError, OverflowError, ValueError):
        return CallEntry.NONE
    finally:
        os.close(fd)


def _off_cpu_ns(folder: str, cpu: int, now_ns: int, offsets: dict[int, int | None]) -> int | None:
    """Return for how long a thread has been off its CPU, by that CPU's task clock."""
    exec_start_ns = parse_exec_start(_read(f"{folder}/sched"))
    if exec_start_ns is None:
        return None
    if cpu not in offsets:
        offsets[cpu] = measure_task_clock(cpu)
    offset = offsets[cpu]
    return None if offset is None else max(now_ns - exec_start_ns - offset, 0)


def _read_stack(folder: str) -> Iterator[str]:
    """Yield the functions on the kernel stack, or only the one that it sleeps in."""
    lines = _read(f"{folder}/stack").splitlines()
    for line in lines:
        yield escape_bytes(line.split()[-1].partition(b"/")[0])
    where = b"" if lines else _read(f"{folder}/wchan").strip()
    if where not in (b"", b"0"):
        yield escape_bytes(where)

"""The system calls of some threads as the kernel saw them: its own trace events, read as text.

`raw_syscalls` of tracefs, in an instance of our own, so nobody else's tracing is touched. Source of
the format: include/trace/events/syscalls.h.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_LINE = re.compile(
    r"-(?P<tid>\d+)\s+\[\d+\] [^:]*: (?:"
    r"sys_enter: NR (?P<nr>-?\d+) \((?P<args>[0-9a-f, ]*)\)"
    r"|sys_exit: NR -?\d+ = (?P<result>-?\d+))$"
)


class Seen(NamedTuple):
    """One call: its six arguments as the registers had them; no result: it did not come back."""

    tid: int
    nr: int
    args: tuple[int, ...]
    result: int | None


@contextmanager
def tracefs() -> Iterator[Path | None]:
    """Mount tracefs on a folder of our own; None where this kernel has no such events."""
    with tempfile.TemporaryDirectory(prefix="ckpt-tracefs-") as folder:
        done = subprocess.run(["mount", "-t", "tracefs", "tracefs", folder], capture_output=True)
        if done.returncode:
            yield None
            return
        try:
            root = Path(folder)
            yield root if (root / "events/raw_syscalls").is_dir() else None
        finally:
            subprocess.run(["umount", folder], check=True)


@contextmanager
def traced(root: Path, tids: Iterable[int]) -> Iterator[Path]:
    """Trace the threads of these numbers, who need not exist yet; yield the instance."""
    instance = root / "instances" / f"ckpt-{os.getpid()}"
    instance.mkdir()
    try:
        (instance / "set_event_pid").write_text(" ".join(map(str, tids)))
        (instance / "events/raw_syscalls/enable").write_text("1")
        yield instance
    finally:
        (instance / "events/raw_syscalls/enable").write_text("0")
        instance.rmdir()


def read_calls(instance: Path) -> list[Seen]:
    """Return the calls in the order in which they began."""
    text = (instance / "trace").read_text(errors="replace")
    calls: list[Seen] = []
    open_at: dict[int, int] = {}
    for line in text.splitlines():
        found = _LINE.search(line)
        if found is None:
            assert line.startswith("#") or "NR" not in line, line
            continue
        tid = int(found["tid"])
        if found["result"] is None:
            args = tuple(int(word, 16) for word in found["args"].split(", "))
            open_at[tid] = len(calls)
            calls.append(Seen(tid, int(found["nr"]), args, None))
        elif tid in open_at:
            at = open_at.pop(tid)
            calls[at] = calls[at]._replace(result=int(found["result"]))
    return calls

"""Namespaces other than ours: refused by name. Time namespaces have a module of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from ckpt.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.host.kernel_view import Namespaces
    from ckpt.objects.base import Process

KINDS: Final = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "pid_for_children")
"""Files of /proc/PID/ns that have to be the same as ours."""

_HINT: Final = "run ckpt-bpf inside that namespace (nsenter), or wait for container support"


def survey(process: Process) -> Iterable[Finding]:
    """Compare every thread's namespaces with our own."""
    return list(find_foreign(process))


def capture(process: Process) -> None:
    """Look again: a thread may have called unshare or setns since the survey."""
    for finding in find_foreign(process):
        process.refuse(finding.where, finding.what, finding.hint)


def find_foreign(process: Process) -> Iterator[Finding]:
    """Yield one finding for each thread and kind of namespace that is not ours."""
    own = {kind: read_inode("/proc/self", kind) for kind in KINDS}
    seen: set[object] = set()
    for tid in process.tids or [process.living_tid]:
        view = process.thread_views.get(tid)
        if view is not None and view.nsproxy:
            likeness = (view.nsproxy, view.pid_ns, view.user_ns)
            if likeness in seen:
                continue
            seen.add(likeness)
        yield from _compare(process, tid, own)


def _compare(process: Process, tid: int, own: dict[str, int]) -> Iterator[Finding]:
    base = f"/proc/{process.tgid}/task/{tid}"
    view = process.thread_views.get(tid)
    spaces = view.namespaces if view else None
    for kind, inode in own.items():
        theirs = _seen(spaces, kind) or read_inode(base, kind)
        if theirs and theirs != inode:
            what = f"is in another {kind.replace('_', ' ')} namespace ({kind}:[{theirs}])"
            yield Finding(f"tid {tid}", what, _HINT)


def _seen(spaces: Namespaces | None, kind: str) -> int:
    """Return the inode that a view gives for `kind`; 0 when it has none."""
    return 0 if spaces is None else getattr(spaces, kind, 0)


def read_inode(base: str, kind: str) -> int:
    """Return the inode of a namespace file; 0 when the thread or the file does not exist."""
    try:
        return os.stat(f"{base}/ns/{kind}").st_ino
    except (FileNotFoundError, ProcessLookupError):
        return 0

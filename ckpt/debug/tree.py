"""The tree of processes below one, each with its state and the call that it is in."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from ckpt.debug.fd_names import FdNames
from ckpt.debug.inspect_thread import decode_bare, describe_state
from ckpt.debug.inspect_types import TreeNode
from ckpt.debug.text import escape
from ckpt.host.kernel_view import NO_OBJECT, PF_KTHREAD
from ckpt.host.status import read_small
from ckpt.host.surroundings import PeerTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MAX_NODES: Final = 1000
_MAX_DEPTH: Final = 64
_STATES: Final = {b"R": 0, b"S": 1, b"D": 2, b"T": 4, b"t": 8, b"I": 0x402, b"P": 0x40}
_EXITS: Final = {b"Z": 0x20, b"X": 0x10}


class Family:
    """All tasks by process, and processes by parent."""

    def __init__(self, peers: Iterable[PeerTask]) -> None:
        self._tasks: dict[int, list[PeerTask]] = {}
        for peer in peers:
            self._tasks.setdefault(peer.tgid, []).append(peer)
        self._children: dict[int, list[int]] = {}
        for pid, tasks in self._tasks.items():
            self._children.setdefault(tasks[0].parent_tgid, []).append(pid)

    def descendants(self, pid: int) -> list[int]:
        """Return every process below `pid`, parents before their children."""
        found, pending, seen = list[int](), [pid], {0, pid}
        while pending and len(found) < _MAX_NODES:
            # A number that was given anew while tasks were listed may seem its own ancestor.
            children = sorted(set(self._children.get(pending.pop(0), ())) - seen)
            seen.update(children)
            found += children
            pending += children
        return found

    def build(self, pid: int) -> TreeNode | None:
        """Return the tree below `pid`; None: there is no such process (any more)."""
        return self._build(pid, 0, {0})

    def _build(self, pid: int, depth: int, seen: set[int]) -> TreeNode | None:
        tasks = self._tasks.get(pid)
        if not tasks or pid in seen:
            return None
        seen.add(pid)
        children = []
        for child in sorted(self._children.get(pid, ())):
            if depth < _MAX_DEPTH and len(seen) <= _MAX_NODES:
                node = self._build(child, depth + 1, seen)
                children += [node] if node is not None else []
        leader = next((task for task in tasks if task.tid == pid), tasks[0])
        # A leader that has exited says nothing of the threads that live on.
        shown = next((task for task in tasks if not task.exit_state), leader)
        letter, _ = describe_state(shown.state, shown.exit_state, on_cpu=shown.on_cpu)
        return TreeNode(
            pid, escape(leader.comm), letter, len(tasks), _name_call(shown), tuple(children)
        )


def _name_call(task: PeerTask) -> str:
    if task.call_nr < 0 or task.on_cpu or task.exit_state or task.is_kernel_thread:
        return ""
    with FdNames(task.tgid, task.tid) as names:
        args, is_i386 = task.call_args, task.is_i386_call
        return decode_bare(task.call_nr, args, is_i386=is_i386, name_fd=names.name).text


def read_peers(own: Sequence[PeerTask]) -> Iterator[PeerTask]:
    """Yield every process as /proc shows it, without BPF; `own` are tasks known already."""
    yield from own
    known = {task.tgid for task in own}
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) in known:
            continue
        with contextlib.suppress(OSError, ValueError):
            yield _read_peer(int(name))


def _read_peer(pid: int) -> PeerTask:
    from ckpt.host.proc_tasks import parse_stat

    text = read_small(f"/proc/{pid}/stat")
    stat = parse_stat(text)
    comm = text[text.index(b"(") + 1 : text.rindex(b")")].decode("utf-8", "surrogateescape")
    return PeerTask(
        tid=pid,
        tgid=pid,
        parent_tgid=stat.parent,
        tracer_tid=0,
        comm=comm,
        state=_STATES.get(stat.state, 0),
        exit_state=_EXITS.get(stat.state, 0),
        is_kernel_thread=bool(stat.flags & PF_KTHREAD),
        on_cpu=False,
        mm=NO_OBJECT,
        files=NO_OBJECT,
        fs=NO_OBJECT,
        sighand=NO_OBJECT,
        call_nr=-1,
        is_i386_call=False,
        call_args=(0,) * 6,
    )

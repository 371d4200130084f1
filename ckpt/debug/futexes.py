"""Futexes of a live process: who owns one, who waits for it, and the robust lists that hold them.

Memory is the target's: pointers may lead anywhere, lists may be circular or endless.
Source: kernel/futex/core.c (exit_robust_list) and include/uapi/linux/futex.h, 6.18.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.arch.x86_64.syscalls import syscall_name
from ckpt.debug.inspect_types import FutexWord, RobustEntry, RobustList, Who
from ckpt.debug.text import escape
from ckpt.objects.maps_text import parse_maps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.debug.space import Space
    from ckpt.host.kernel_view import KernelId
    from ckpt.host.surroundings import PeerTask
    from ckpt.objects.maps_text import MapsLine

FUTEX_TID_MASK: Final = 0x3FFF_FFFF
FUTEX_OWNER_DIED: Final = 0x4000_0000
FUTEX_WAITERS: Final = 0x8000_0000
ROBUST_LIST_LIMIT: Final = 2048
_PRIVATE: Final = 128
_CLOCK_REALTIME: Final = 256
_WAITS: Final = frozenset((0, 6, 9, 11, 13))
"""FUTEX_WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2."""
_PI_WAITS: Final = frozenset((6, 13))
_GLIBC_OWNER_AT: Final = 8
_GLIBC_LOCKED: Final = (1, 2)
"""What glibc's plain mutexes hold in the word while they are locked; behind it stand a count and
the owner's tid (struct __pthread_mutex_s, sysdeps/nptl/bits/struct_mutex.h)."""
_HEADS: Final = {False: struct.Struct("<QqQ"), True: struct.Struct("<IiI")}
"""struct robust_list_head and compat_robust_list_head: list, futex_offset, list_op_pending."""
_NEXT: Final = {False: struct.Struct("<Q"), True: struct.Struct("<I")}
_MAX_MAPS_READ: Final = 64
_SHARED_PERMISSION: Final = b"s"


class Wait(NamedTuple):
    """A task that is blocked on a futex."""

    task: PeerTask
    address: int
    is_private: bool
    is_pi: bool


def find_wait(task: PeerTask, restarted: dict[int, int]) -> Wait | None:
    """Return what a task waits for, by the registers that it entered the kernel with.

    `restarted`: futex addresses of threads whose restart_block says so, by tid.
    """
    if task.call_nr < 0 or task.on_cpu or not task.state:
        return None
    name = syscall_name(task.call_nr, i386=task.is_i386_call).removesuffix("_time64")
    address, operation = task.call_args[:2]
    if name == "restart_syscall" and task.tid in restarted:
        return Wait(task, restarted[task.tid], bool(operation & _PRIVATE), False)
    if name == "futex_wait":
        return Wait(task, address, bool(task.call_args[3] & _PRIVATE), False)
    if name != "futex":
        return None
    command = operation & 0xFFFF_FFFF & ~(_PRIVATE | _CLOCK_REALTIME)
    if command not in _WAITS:
        return None
    return Wait(task, address, bool(operation & _PRIVATE), command in _PI_WAITS)


class Futexes:
    """The futexes of one process, and everybody who waits."""

    def __init__(
        self,
        space: Space,
        mm: KernelId | None,
        tgid: int,
        peers: Sequence[PeerTask],
        restarted: dict[int, int],
        numbers: dict[int, int] | None = None,
    ) -> None:
        """Take the memory, its identity, all tasks, and `restarted` of `find_wait`.

        `numbers`: tids in the pid namespace of the process to ours, where that is another one;
        its locks hold the former.
        """
        self._space = space
        self._numbers = numbers
        self._mm = mm
        self._tgid = tgid
        self._peers = {peer.tid: peer for peer in peers if peer.tid}
        self.waits = {
            peer.tid: wait for peer in peers if (wait := find_wait(peer, restarted)) is not None
        }
        self._maps: dict[int, list[MapsLine]] = {}

    def describe_wait(self, tid: int) -> FutexWord | None:
        """Describe the futex that a thread of the process waits for; None: it waits for none."""
        wait = self.waits.get(tid)
        return None if wait is None else self.describe(wait.address, holds_owner=wait.is_pi)

    def describe(self, address: int, *, holds_owner: bool) -> FutexWord:
        """Describe the futex at `address`.

        `holds_owner`: its word is the owner's tid with flags, as of robust and PI futexes.
        """
        content = self._space.read(address, 4)
        value = int.from_bytes(content, "little") if len(content) == 4 else None
        owner = self._number((value or 0) & FUTEX_TID_MASK) if holds_owner else 0
        text = self._name_owner(owner)
        if value is not None and not holds_owner:
            owner, text = self._guess_owner(address, value)
        return FutexWord(
            address=address,
            place=self._space.locate(address),
            value=value,
            owner_tid=owner,
            owner=text,
            has_waiters=holds_owner and bool((value or 0) & FUTEX_WAITERS),
            owner_died=holds_owner and bool((value or 0) & FUTEX_OWNER_DIED),
            waiters=tuple(self._waiters(address)),
        )

    def _number(self, tid: int) -> int:
        """Return our number of a tid that stands in the target's memory; unknown ones as is."""
        return tid if self._numbers is None else self._numbers.get(tid, tid)

    def _name_owner(self, tid: int) -> str:
        if not tid:
            return ""
        if self._numbers is not None and tid not in self._numbers.values():
            return "of another pid namespace"
        peer = self._peers.get(tid)
        return escape(peer.comm) if peer is not None else "not a living thread here"

    def _guess_owner(self, address: int, value: int) -> tuple[int, str]:
        """Return the owner that glibc keeps behind the word of a locked mutex, if it looks so.

        A robust mutex of glibc, taken by a plain FUTEX_WAIT, has the owner in the word itself.
        """
        inside = self._peers.get(self._number(value & FUTEX_TID_MASK))
        if inside is not None and value & FUTEX_WAITERS and inside.tgid == self._tgid:
            return inside.tid, f"{escape(inside.comm)}, by the word"
        content = self._space.read(address + _GLIBC_OWNER_AT, 4)
        owner = self._number(int.from_bytes(content, "little"))
        peer = self._peers.get(owner)
        if value not in _GLIBC_LOCKED or len(content) < 4 or peer is None:
            return 0, ""
        if peer.tgid != self._tgid:
            return 0, ""
        return owner, f"{escape(peer.comm)}, by glibc's mutex"

    def _waiters(self, address: int) -> Iterator[Who]:
        key = None
        for wait in self.waits.values():
            if self._mm is not None and wait.task.mm == self._mm:
                is_same = wait.address == address
            elif wait.is_private or wait.address % 4096 != address % 4096:
                is_same = False
            else:
                key = key or self._shared_key(self._tgid, address)
                is_same = key is not None and key == self._shared_key(wait.task.tgid, wait.address)
            if is_same:
                yield Who(wait.task.tid, wait.task.tgid, escape(wait.task.comm))

    def _shared_key(self, tgid: int, address: int) -> tuple[bytes, int, int] | None:
        """Return device, inode and offset behind an address in shared memory."""
        if tgid not in self._maps:
            if len(self._maps) >= _MAX_MAPS_READ:
                return None
            self._maps[tgid] = _read_maps(tgid)
        for line in self._maps[tgid]:
            if line.start <= address < line.end:
                offset = address - line.start + line.offset
                is_shared = line.perms.endswith(_SHARED_PERMISSION)
                return (line.dev, line.inode, offset) if is_shared and line.inode else None
        return None

    def walk_robust_list(self, head: int, *, is_compat: bool) -> RobustList:
        """Walk a list as the kernel does when the thread ends: bounded, and cycles are noticed."""
        form = _HEADS[is_compat]
        content = self._space.read(head, form.size)
        if len(content) < form.size:
            return RobustList(head, is_compat, 0, (), None, "its head cannot be read")
        first, offset, pending = form.unpack(content)
        entries: list[RobustEntry] = []
        problem = ""
        seen, at = set[int](), first
        while at & ~1 != head:
            problem = _find_problem(at & ~1, seen)
            if problem:
                break
            seen.add(at & ~1)
            if at & ~1 != pending & ~1:
                entries.append(self._entry(at, offset))
            content = self._space.read(at & ~1, _NEXT[is_compat].size)
            if len(content) < _NEXT[is_compat].size:
                problem = f"the entry at {at & ~1:#x} cannot be read"
                break
            (at,) = _NEXT[is_compat].unpack(content)
        waiting = self._entry(pending, offset) if pending else None
        return RobustList(head, is_compat, offset, tuple(entries), waiting, problem)

    def _entry(self, pointer: int, offset: int) -> RobustEntry:
        entry = pointer & ~1
        futex = self.describe(entry + offset & (1 << 64) - 1, holds_owner=True)
        return RobustEntry(entry, bool(pointer & 1), futex)


def _find_problem(entry: int, seen: set[int]) -> str:
    if not entry:
        return "it ends in a null pointer, not at its head"
    if entry in seen:
        return f"it goes in circles: {entry:#x} comes again"
    return f"more than {ROBUST_LIST_LIMIT} entries" if len(seen) >= ROBUST_LIST_LIMIT else ""


def _read_maps(tgid: int) -> list[MapsLine]:
    try:
        with open(f"/proc/{tgid}/maps", "rb") as file:
            return parse_maps(file.read())
    except OSError:
        return []

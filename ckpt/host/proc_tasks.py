"""One thread as /proc shows it: the part of a ThreadView that needs no call in the target.

Field names and positions are those of `fs/proc/array.c` and `fs/proc/base.c`, 6.18.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from typing import Final, NamedTuple

from ckpt.host.kernel_view import (
    EXIT_DEAD,
    EXIT_ZOMBIE,
    TASK_INTERRUPTIBLE,
    TASK_RUNNING,
    TASK_STOPPED_BIT,
    TASK_TRACED_BIT,
    TASK_UNINTERRUPTIBLE,
    Namespaces,
)
from ckpt.host.proc_waits import Sleep, parse_exec_start
from ckpt.host.status import parse_fields, read_small
from ckpt.host.syscalls import KCMP_FILES, KCMP_FS, SYS_KCMP, syscall

SYS_GET_ROBUST_LIST: Final = 274
_STATES: Final = {
    b"R": TASK_RUNNING,
    b"S": TASK_INTERRUPTIBLE,
    b"D": TASK_UNINTERRUPTIBLE,
    b"T": TASK_STOPPED_BIT,
    b"t": TASK_TRACED_BIT,
}
_EXITS: Final = {b"Z": EXIT_ZOMBIE, b"X": EXIT_DEAD}
_PRIO_OFFSET: Final = 100
"""/proc shows prio - MAX_RT_PRIO (`task_prio`, kernel/sched/syscalls.c)."""
_NICE_OFFSET: Final = 120
_NAMESPACES: Final = (
    "uts",
    "ipc",
    "mnt",
    "pid_for_children",
    "net",
    "time",
    "time_for_children",
    "cgroup",
)
_POINTERS: Final = struct.Struct("<QQ")


class Stat(NamedTuple):
    """The fields of /proc/TID/stat that views have (proc(5) numbers them from 1)."""

    state: bytes
    parent: int
    pgrp: int
    session: int
    tty: int
    flags: int
    prio: int
    nice: int
    threads: int
    exit_signal: int
    processor: int
    rt_priority: int
    policy: int
    exit_code: int
    start_code: int
    end_code: int
    start_stack: int
    start_data: int
    end_data: int
    start_brk: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int


_STAT_FIELDS: Final = (
    *(4, 5, 6, 7, 9, 18, 19, 20, 38, 39, 40, 41, 52),
    *(26, 27, 28, 45, 46, 47, 48, 49, 50, 51),
)
"""Numbers in proc(5) of the fields of `Stat` behind `state`, which is 3."""


def parse_stat(text: bytes) -> Stat:
    """Parse /proc/TID/stat; the name in it may hold anything."""
    words = text[text.rindex(b")") + 2 :].split()
    return Stat(words[0], *(int(words[number - 3]) for number in _STAT_FIELDS))


class TaskText(NamedTuple):
    """What was read of one thread, undecoded."""

    tid: int
    monotonic_ns: int
    boottime_ns: int
    status: bytes
    stat: bytes
    sched: bytes
    call: bytes
    """/proc/TID/syscall"""
    namespaces: tuple[int, ...]
    """Inodes, in the order of `_NAMESPACES`, then pid and user; 0: not there."""
    robust_list: int
    personality: int
    timer_slack_ns: int
    has_children: bool | None


def read_task(tgid: int, tid: int) -> TaskText:
    """Read one thread.

    Raises:
        FileNotFoundError: it has ended.
        ProcessLookupError: likewise.
    """
    folder = f"/proc/{tgid}/task/{tid}/"
    return TaskText(
        tid,
        time.monotonic_ns(),
        time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        read_small(folder + "status"),
        read_small(folder + "stat"),
        read_optional(folder + "sched"),
        read_optional(folder + "syscall"),
        tuple(_read_inode(f"{folder}ns/{name}") for name in (*_NAMESPACES, "pid", "user")),
        read_robust_list(tid),
        int(read_optional(folder + "personality") or b"0", 16),
        int(read_optional(f"/proc/{tid}/timerslack_ns") or b"0"),
        _read_has_children(folder),
    )


def read_optional(path: str) -> bytes:
    """Return a file's content; b"" where the kernel has no such file or keeps it to itself.

    Long files of /proc come a page a read.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return b""


def _read_inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0  # A kernel without this kind, or a thread that has exited.


def _read_has_children(folder: str) -> bool | None:
    try:
        return bool(read_small(folder + "children").split())
    except FileNotFoundError:
        return None  # CONFIG_PROC_CHILDREN is off.


def read_robust_list(tid: int) -> int:
    """Return the head that a thread has registered, which anybody who may trace it can ask for."""
    answer = ctypes.create_string_buffer(_POINTERS.size)
    address = ctypes.addressof(answer)
    try:
        syscall(SYS_GET_ROBUST_LIST, tid, address, address + 8)
    except ProcessLookupError:
        return 0
    return int(_POINTERS.unpack(answer.raw)[0])


class Task(NamedTuple):
    """One thread as /proc showed it, parsed."""

    text: TaskText
    stat: Stat
    status: dict[bytes, bytes]

    @property
    def tid(self) -> int:
        """The thread."""
        return self.text.tid

    @property
    def sleep(self) -> Sleep | None:
        """How long it has been off its CPU; None where the kernel does not say."""
        began = parse_exec_start(self.text.sched)
        return None if began is None else Sleep(began, self.stat.processor)

    def number(self, name: bytes, base: int = 10) -> int:
        """Return a number of the status file; 0 for a line that is not there."""
        return int(self.status.get(name, b"0").split()[0], base)

    @property
    def state(self) -> int:
        """task->__state."""
        return _STATES.get(self.stat.state, TASK_RUNNING)

    @property
    def exit_state(self) -> int:
        """task->exit_state."""
        return _EXITS.get(self.stat.state, 0)

    @property
    def prio(self) -> int:
        """task->prio, as long as nothing boosts it also normal_prio."""
        return self.stat.prio + _PRIO_OFFSET

    @property
    def static_prio(self) -> int:
        """task->static_prio."""
        return self.stat.nice + _NICE_OFFSET

    @property
    def namespaces(self) -> Namespaces | None:
        """Inodes of the nsproxy; None for a thread that has exited."""
        found = self.text.namespaces[: len(_NAMESPACES)]
        return Namespaces(None, *found) if any(found) else None


def parse_task(text: TaskText) -> Task:
    """Parse what was read of a thread."""
    return Task(text, parse_stat(text.stat), parse_fields(text.status))


class SharedObjects(NamedTuple):
    """Whose descriptor table and fs_struct a thread uses: the first thread that has the same."""

    files: int
    fs: int


class Sharing:
    """Tells which threads share their files and fs; nearly always it is all with the first."""

    def __init__(self) -> None:
        self._known: dict[int, list[int]] = {KCMP_FILES: [], KCMP_FS: []}

    def of(self, tid: int) -> SharedObjects | None:
        """Return whose objects a living thread has; None when we may not compare (no kcmp)."""
        try:
            return SharedObjects(self._find(tid, KCMP_FILES), self._find(tid, KCMP_FS))
        except OSError:
            return None

    def _find(self, tid: int, kind: int) -> int:
        for other in self._known[kind]:
            if syscall(SYS_KCMP, other, tid, kind, 0, 0) == 0:
                return other
        self._known[kind].append(tid)
        return tid

"""Looks at this very process as if it were a target, and plays plans on it."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ckpt.host.kernel_view import FileView, KernelId
from ckpt.host.syscalls import KCMP_FILE, libc
from ckpt.objects import files
from ckpt.objects.base import Builder, HostFacts, Identities, Options, Process, Record, Records
from ckpt.objects.file_kinds.common import Opening, file_key, parse_fdinfo
from ckpt.objects.steps import Blob, Call, Expect, Scratch

ANON_FOPS = {
    "[eventfd]": "eventfd_fops",
    "[eventpoll]": "eventpoll_fops",
    "[timerfd]": "timerfd_fops",
    "[signalfd]": "signalfd_fops",
    "inotify": "inotify_fops",
}


def view_of(fd: int, *, f_count: int | None = None) -> FileView:
    """Return what BPF would say of one of our descriptors, learned from /proc and fstat."""
    found = os.fstat(fd)
    link = os.readlink(f"/proc/self/fd/{fd}")
    anon = link.removeprefix("anon_inode:") if link.startswith("anon_inode:") else ""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as text:
        info = parse_fdinfo(text.read())
    flags = int(info[b"flags"][0], 8)
    fs_type = "pipefs" if link.startswith("pipe:") else "anon_inodefs" if anon else "ext4"
    if stat.S_ISREG(found.st_mode) and found.st_dev == _memory_device():
        fs_type = "tmpfs"
    return FileView(
        fd=fd,
        cloexec=bool(flags & os.O_CLOEXEC),
        file=KernelId(_identify(fd)),
        f_op=ANON_FOPS.get(anon, ""),
        f_count=f_count,
        f_mode=None,
        f_flags=flags & ~os.O_CLOEXEC,
        f_pos=int(info[b"pos"][0]),
        ino=found.st_ino,
        dev=found.st_dev,
        mode=found.st_mode,
        nlink=found.st_nlink,
        rdev=found.st_rdev,
        size=found.st_size,
        sb_magic=0,
        fs_type=fs_type,
        inode=None,
        private=None,
        anon_name=anon,
        owner_pid=0,
        owner_type=0,
        owner_uid=0,
        owner_euid=0,
        owner_signum=0,
        has_locks=None,
    )


def _memory_device() -> int:
    fd = os.memfd_create("probe")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


_seen: list[int] = []


def _identify(fd: int) -> int:
    """Number struct files by kcmp against those that are still open from before."""
    for other in _seen:
        try:
            if libc.syscall(312, os.getpid(), os.getpid(), KCMP_FILE, fd, other) == 0:
                return other + 1
        except OSError:
            continue
    _seen.append(fd)
    return fd + 1


class FakeSink:
    """Keeps pages in a file as an image would."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("image")
        self.places: dict[int, tuple[array.array[int], int]] = {}

    def store(self, ref: int, source_fd: int, extents: Any, tid: int = 0) -> None:
        del tid
        at = os.lseek(self.fd, 0, os.SEEK_END)
        self.places[ref] = (extents, at)
        for i in range(0, len(extents), 2):
            data = os.pread(source_fd, extents[i + 1], extents[i])
            assert len(data) == extents[i + 1]
            os.write(self.fd, data)


class FakeRestorer:
    """Performs actions with ourselves as the task: played calls are made here."""

    def __init__(self, sink: FakeSink) -> None:
        self.fds: dict[str, int] = {}
        self.sink = sink
        self.image_fd = sink.fd
        self.root_tid = os.getpid()

    def proc_path(self, tid: int, name: str) -> str:
        return f"/proc/{tid}/{name}"

    def page_extents(self, ref: int) -> tuple[Any, int]:
        return self.sink.places[ref]

    def close_fd(self, key: str) -> None:
        os.close(self.fds.pop(key))

    def play(self, tid: int, calls: Iterable[Call]) -> list[int]:
        assert tid == os.getpid()
        return [make_call(call) for call in calls]


def make_call(call: Call) -> int:
    """Make one call of a tape ourselves and check its result as the player does."""
    kept: dict[int, Any] = {}
    words = [arg if isinstance(arg, int) else _address(arg, kept) for arg in call.args]
    args = map(ctypes.c_long, words)
    result = int(libc.syscall(ctypes.c_long(call.nr), *args))
    if result == -1:
        result = -ctypes.get_errno()
    if call.expect is Expect.EXACT:
        assert result == call.value, f"{call} gave {result}"
    return result


def _address(item: Blob | Scratch, kept: dict[int, Any]) -> int:
    if id(item) not in kept:
        size = item.size_bytes if isinstance(item, Scratch) else len(item.content)
        buffer = ctypes.create_string_buffer(max(size, 1))
        kept[id(item)] = buffer
        if isinstance(item, Blob):
            content = bytearray(item.content)
            for at, pointee in item.pointers:
                content[at : at + 8] = _address(pointee, kept).to_bytes(8, "little")
            ctypes.memmove(buffer, bytes(content), size)
    return ctypes.addressof(kept[id(item)])


def look(
    fds: Sequence[int], *, frozen: bool = True, f_counts: dict[int, int] | None = None
) -> tuple[Process, FakeSink]:
    """Return ourselves as a process whose table is `fds`."""
    _seen.clear()
    process = Process(os.getpid(), Options(), Identities())
    process.pidfd = os.pidfd_open(os.getpid())
    process.tids = [os.getpid()]
    process.is_frozen = frozen
    process.file_views = {fd: view_of(fd, f_count=(f_counts or {}).get(fd)) for fd in fds}
    sink = FakeSink()
    process.sink = sink
    return process, sink


def capture(fds: Sequence[int]) -> tuple[Records, FakeSink]:
    """Capture `fds` of ourselves; the records have gone through the image's encoding."""
    process, sink = look(fds)
    records = files.finish(files.capture(process), process)
    assert [finding for finding in process.findings if finding.blocker] == []
    return Records(round_trip(record) for record in records), sink


def round_trip(record: Record) -> Record:
    """Return the record as it comes out of an image."""
    union = msgspec.msgpack.Decoder(_union())
    decoded = union.decode(msgspec.msgpack.encode(record, order="deterministic"))
    assert decoded == record
    return decoded


def _union() -> Any:
    union: Any = files.RECORDS[0]
    for kind in files.RECORDS[1:]:
        union = union | kind
    return union


def recreate(
    records: Records, sink: FakeSink, options: Options | None = None
) -> tuple[dict[int, int], FakeRestorer]:
    """Perform every opening; return our new descriptor of each file objref."""
    restorer = FakeRestorer(sink)
    build = Builder(HostFacts(), options or Options(), 3)
    from ckpt.objects.file_kinds import kinds
    from ckpt.objects.file_kinds.inode import plan_contents

    plan_contents(records, build)
    openings: list[Opening] = [o for kind in kinds() for o in kind.plan(records, build)]
    for step in build.steps:
        assert step.action is not None
        step.action.perform(restorer)  # type: ignore[arg-type]
    for opening in openings:
        assert opening.action.describe().isprintable()
        opening.action.perform(restorer)  # type: ignore[arg-type]
    return {ref: restorer.fds[file_key(ref)] for o in openings for ref in o.refs}, restorer


def copy_of(fd: int, records: Records, made: dict[int, int]) -> int:
    """Return the recreated descriptor for the captured `fd`."""
    (table,) = records.of(files.FileTable)
    (entry,) = [entry for entry in table.descriptors if entry.fd == fd]
    return made[entry.file]


def status_flags(fd: int) -> int:
    """Return F_GETFL."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)

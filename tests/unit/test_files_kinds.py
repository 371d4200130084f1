"""Every kind of open file: captured from ourselves, through the image's encoding, made again."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
from pathlib import Path

import pytest

from ckpt.errors import RestoreError
from ckpt.host.syscalls import libc, syscall
from ckpt.objects import files
from ckpt.objects.base import Options
from ckpt.objects.file_kinds.inode import InodeContent
from ckpt.objects.file_kinds.regular import RegularFile
from ckpt.objects.file_kinds.socketpair import SocketFile
from tests.unit.files_host import capture, copy_of, look, recreate, status_flags


def again(*fds: int, options: Options | None = None) -> list[int]:
    """Capture and recreate; return the new descriptors in the order of `fds`."""
    records, sink = capture(fds)
    made, _ = recreate(records, sink, options)
    return [copy_of(fd, records, made) for fd in fds]


def test_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NONBLOCK)
    os.lseek(fd, 42, os.SEEK_SET)
    (new,) = again(fd)
    assert os.lseek(new, 0, os.SEEK_CUR) == 42
    assert status_flags(new) == status_flags(fd)
    assert os.path.samestat(os.fstat(new), os.fstat(fd))


def test_one_open_file_is_one_record_whatever_its_descriptors(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    same, other = os.dup(fd), os.open(path, os.O_RDWR)
    records, _ = capture([fd, same, other])
    (table,) = records.of(files.FileTable)
    refs = {entry.fd: entry.file for entry in table.descriptors}
    assert refs[fd] == refs[same] != refs[other]
    assert len(records.of(RegularFile)) == 2
    assert {entry.fd: entry.cloexec for entry in table.descriptors} == dict.fromkeys(refs, True)


@pytest.mark.parametrize("change", ["grow", "shrink", "replace", "copy", "remove"])
def test_policy_for_files_that_changed(tmp_path: Path, change: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * 50)
    fd = os.open(path, os.O_RDONLY)
    before = os.stat(path)
    records, sink = capture([fd])
    if change == "grow":
        path.write_bytes(b"b" * 60)
    elif change == "shrink":
        os.truncate(path, 10)
    elif change in ("replace", "copy"):
        spare = tmp_path / "spare"
        spare.write_bytes(b"c" * 50)
        if change == "copy":
            os.utime(spare, ns=(before.st_mtime_ns, before.st_mtime_ns))
        spare.rename(path)
    else:
        path.unlink()
    findings = list(files.preflight(records, Options()))
    if change in ("grow", "copy"):
        assert findings == []
        recreate(records, sink)
        return
    assert [str(path) in str(finding) for finding in findings] == [True]
    with pytest.raises(RestoreError, match=path.name):
        recreate(records, sink)
    if change != "remove":
        assert list(files.preflight(records, Options(allow_changed_files=True))) == []
        recreate(records, sink, Options(allow_changed_files=True))


@pytest.mark.parametrize("size", [0, 5, 4096, 3 << 20])
def test_deleted_file_comes_back_with_its_content(tmp_path: Path, size: int) -> None:
    path = tmp_path / "gone"
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    data = os.urandom(min(size, 5000))
    os.pwrite(fd, data, max(size - 5000, 0))  # a hole before it when the file is large
    reader, writer = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
    path.unlink()
    os.lseek(reader, 3, os.SEEK_SET)
    new, new_reader, new_writer = again(fd, reader, writer)
    found = os.fstat(new)
    assert (found.st_size, found.st_nlink, found.st_mode) == (size, 0, os.fstat(fd).st_mode)
    assert os.pread(new, size, 0) == os.pread(fd, size, 0)
    assert found.st_blocks <= os.fstat(fd).st_blocks + 16
    assert os.path.samestat(found, os.fstat(new_reader))
    assert os.path.samestat(found, os.fstat(new_writer))
    assert os.lseek(new_reader, 0, os.SEEK_CUR) == 3
    assert os.readlink(f"/proc/self/fd/{new}") == os.readlink(f"/proc/self/fd/{fd}")
    assert not path.exists()


def test_a_deleted_file_whose_name_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    path.unlink()
    path.write_bytes(b"new")
    (new,) = again(fd)
    assert os.fstat(new).st_size == 0
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["gone"]


def test_a_file_that_lost_the_name_it_was_opened_by(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "other folder" / "b"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDONLY)
    link.parent.mkdir()
    os.link(path, link)
    path.unlink()
    process, _ = look([fd])
    raw = files.capture(process)
    assert [finding.blocker for finding in process.findings] == [False]
    assert len([r for r in files.finish(raw, process) if isinstance(r, InodeContent)]) == 1
    (new,) = again(fd)
    assert os.read(new, 100) == b"content"


def test_a_file_that_was_linked_and_renamed_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "temporary"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.link(path, tmp_path / "final")
    path.unlink()
    (new,) = again(fd)
    assert os.path.samestat(os.fstat(new), os.stat(tmp_path / "final"))


def test_unnamed_temporary_file_can_still_be_linked(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"abc")
    (new,) = again(fd)
    old, name = f"/proc/self/fd/{new}".encode(), os.fsencode(tmp_path / "now")
    at_fdcwd, at_symlink_follow = -100, 0x400
    assert libc.linkat(at_fdcwd, old, at_fdcwd, name, at_symlink_follow) == 0
    assert (tmp_path / "now").read_bytes() == b"abc"


def test_memfd() -> None:
    fd = os.memfd_create("a name", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 1 << 20)
    os.pwrite(fd, b"tail", (1 << 20) - 4)
    seals = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    plain = os.memfd_create("plain")
    new, new_plain = again(fd, plain)
    assert fcntl.fcntl(new, fcntl.F_GET_SEALS) == seals
    assert fcntl.fcntl(new_plain, fcntl.F_GET_SEALS) == fcntl.F_SEAL_SEAL
    assert os.pread(new, 1 << 20, 0) == os.pread(fd, 1 << 20, 0)
    assert os.fstat(new).st_blocks == os.fstat(fd).st_blocks
    assert os.readlink(f"/proc/self/fd/{new}") == "/memfd:a name (deleted)"


def test_pipe_with_data_and_capacity() -> None:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    fcntl.fcntl(read_fd, 1031, 1 << 17)
    data = os.urandom(100_001)
    os.write(write_fd, data)
    second = os.open(f"/proc/self/fd/{write_fd}", os.O_WRONLY)
    both = os.open(f"/proc/self/fd/{read_fd}", os.O_RDWR)
    new = again(read_fd, write_fd, second, both)
    assert [status_flags(fd) for fd in new] == [
        status_flags(fd) for fd in (read_fd, write_fd, second, both)
    ]
    assert fcntl.fcntl(new[0], 1032) == 1 << 17
    assert os.read(new[0], 200_000) == data
    assert os.read(read_fd, 200_000) == data, "the target's own data is still there"
    for fd in new[1:]:
        os.close(fd)
    assert os.read(new[0], 1) == b""


def test_pipe_whose_other_end_is_closed() -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"last words")
    os.close(write_fd)
    (new,) = again(read_fd)
    assert (os.read(new, 100), os.read(new, 100)) == (b"last words", b"")
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    (new,) = again(write_fd)
    with pytest.raises(BrokenPipeError):
        os.write(new, b"x")


def test_full_pipe() -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"x" * 65536)
    new_read, _ = again(read_fd, write_fd)
    assert len(os.read(new_read, 1 << 20)) == 65536


def test_packets_keep_their_bounds() -> None:
    read_fd, write_fd = os.pipe2(os.O_DIRECT)
    for packet in (b"one", b"two", b"x" * 4096):
        os.write(write_fd, packet)
    new_read, new_write = again(read_fd, write_fd)
    assert [os.read(new_read, 5000) for _ in range(3)] == [b"one", b"two", b"x" * 4096]
    assert status_flags(new_write) & os.O_DIRECT


def test_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, b"through a name")
    records, sink = capture([reader, writer])
    os.close(reader)
    os.close(writer)  # with the last end the data is gone, as when the process is killed
    made, _ = recreate(records, sink)
    new_reader, new_writer = (copy_of(fd, records, made) for fd in (reader, writer))
    assert os.read(new_reader, 100) == b"through a name"
    assert status_flags(new_reader) & os.O_NONBLOCK
    assert not status_flags(new_writer) & os.O_NONBLOCK


@pytest.mark.parametrize("count", [0, 7, 2**64 - 2])
def test_eventfd(count: int) -> None:
    fd = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
    if count:
        os.write(fd, struct.pack("=Q", count))
    (new,) = again(fd)
    assert status_flags(new) == status_flags(fd)
    if not count:
        with pytest.raises(BlockingIOError):
            os.read(new, 8)
        return
    assert os.eventfd_read(new) == 1
    fcntl.fcntl(new, fcntl.F_SETFL, 0)
    os.eventfd_write(new, 1)


def test_signalfd() -> None:
    mask = 1 << (signal.SIGUSR1 - 1) | 1 << (signal.SIGRTMAX - 1)
    fd = syscall(289, -1, struct.pack("=Q", mask), 8, 0)
    (new,) = again(fd)
    old, fresh = (Path(f"/proc/self/fdinfo/{n}").read_text() for n in (fd, new))
    assert [line for line in old.splitlines() if "sigmask" in line] == [
        line for line in fresh.splitlines() if "sigmask" in line
    ]


def test_folder_goes_on_where_it_was(tmp_path: Path) -> None:
    for i in range(300):
        (tmp_path / f"entry {i}").touch()
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    room = ctypes.create_string_buffer(1000)
    assert libc.syscall(217, fd, room, 1000) > 0
    (new,) = again(fd)
    rest = []
    for n in (fd, new):
        big = ctypes.create_string_buffer(1 << 16)
        size = libc.syscall(217, n, big, 1 << 16)
        rest.append(big.raw[:size])
    assert rest[0] == rest[1] != b""


def test_path_only(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    fd = os.open(link, os.O_PATH | os.O_NOFOLLOW)
    (new,) = again(fd)
    assert os.path.samestat(os.fstat(fd), os.fstat(new))


@pytest.mark.parametrize("name", ["null", "zero", "full", "random", "urandom"])
def test_device(name: str) -> None:
    fd = os.open(f"/dev/{name}", os.O_RDWR | os.O_NONBLOCK)
    (new,) = again(fd)
    assert os.fstat(new).st_rdev == os.fstat(fd).st_rdev
    assert status_flags(new) == status_flags(fd)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_socket_pair(kind: socket.SocketKind) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 3, 0))
    a.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 4)
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 7))
    a.setblocking(False)
    sent = [b"one", b"two", b"x" * 50_000]
    for message in sent:
        a.send(message)
    b.send(b"back")
    new_a, new_b = (socket.socket(fileno=fd) for fd in again(a.fileno(), b.fileno()))
    expected = [b"".join(sent)] if kind == socket.SOCK_STREAM else sent
    assert [new_b.recv(100_000) for _ in expected] == expected
    assert [b.recv(100_000) for _ in expected] == expected, "nothing was taken from the target"
    assert new_a.recv(10) == b"back"
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF, socket.SO_PASSCRED, socket.SO_PRIORITY, 42):
        assert new_a.getsockopt(1, option) == a.getsockopt(1, option)
    assert new_a.getsockopt(1, socket.SO_LINGER, 8) == struct.pack("ii", 1, 7)
    assert new_a.getsockopt(1, socket.SO_RCVTIMEO, 16) == struct.pack("qq", 3, 0)
    assert status_flags(new_a.fileno()) == status_flags(a.fileno())
    assert new_a.getsockopt(1, socket.SO_PEERCRED, 12) == a.getsockopt(1, socket.SO_PEERCRED, 12)


def test_socket_pair_half_shut_down() -> None:
    a, b = socket.socketpair()
    a.send(b"last words")
    a.shutdown(socket.SHUT_WR)
    new_a, new_b = (socket.socket(fileno=fd) for fd in again(a.fileno(), b.fileno()))
    assert new_b.recv(100) == b"last words"
    assert new_b.recv(100) == b""
    new_b.send(b"still open")
    assert new_a.recv(100) == b"still open"
    with pytest.raises(BrokenPipeError):
        new_a.send(b"no")


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_socket_whose_peer_is_closed(kind: socket.SocketKind) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, kind)
    b.send(b"left behind")
    b.close()
    (fd,) = again(a.fileno())
    new = socket.socket(fileno=fd)
    assert new.recv(100) == b"left behind"
    assert new.recv(100) == b""


def test_messages_keep_who_sent_them() -> None:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    a.send(b"signed")
    a.send(b"")
    a.send(b"after an empty one")
    records, sink = capture([a.fileno(), b.fileno()])
    queues = [[m.data for m in record.received] for record in records.of(SocketFile)]
    assert sorted(queues) == [[], [b"signed", b"", b"after an empty one"]]
    made, _ = recreate(records, sink)
    new = socket.socket(fileno=copy_of(b.fileno(), records, made))
    data, extras, _, _ = new.recvmsg(100, socket.CMSG_SPACE(12))
    sender = struct.unpack("iII", extras[0][2])
    assert (data, sender) == (b"signed", (os.getpid(), os.getuid(), os.getgid()))
    assert [new.recv(100), new.recv(100)] == [b"", b"after an empty one"]


def blockers(*fds: int, f_counts: dict[int, int] | None = None) -> list[str]:
    """What stands in the way, seen frozen; the survey of a running target adds nothing."""
    process, _ = look(fds, f_counts=f_counts)
    files.capture(process)
    frozen = [str(finding) for finding in process.findings if finding.blocker]
    running, _ = look(fds, frozen=False)
    assert {str(f) for f in files.survey(running) if f.blocker} <= set(frozen)
    return frozen


def test_descriptors_under_way_are_refused() -> None:
    a, b = socket.socketpair()
    with open(os.memfd_create("sent"), "rb") as sent:
        socket.send_fds(a, [b"x"], [sent.fileno()])
    (text,) = blockers(a.fileno(), b.fileno())
    assert "descriptors are under way" in text
    ours = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink()]
    assert "/memfd:sent (deleted)" not in ours, "looking must not receive it"


def test_other_sockets_are_refused_by_name(tmp_path: Path) -> None:
    inet = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    lone = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    named = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    named.bind(str(tmp_path / "name"))
    named.listen()
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    inside, outside = socket.socketpair()
    texts = blockers(*(s.fileno() for s in (inet, lone, named, link, inside)))
    del outside
    for text, name in zip(
        texts,
        (
            "AF_INET stream",
            "AF_UNIX dgram, not connected",
            "AF_UNIX stream, listening",
            "AF_NETLINK raw",
            "AF_UNIX stream, connected to somebody outside",
        ),
        strict=True,
    ):
        assert name in text


def test_ends_outside_are_refused() -> None:
    read_fd, write_fd = os.pipe()
    (text,) = blockers(read_fd)
    assert "other end is outside" in text
    (text,) = blockers(read_fd, write_fd, f_counts={read_fd: 2, write_fd: 1})
    assert "also open outside (2 references, 1 found)" in text


def test_epoll_item_of_a_closed_number_is_refused() -> None:
    epoll = select.epoll()
    read_fd, write_fd = os.pipe()
    kept = os.dup(read_fd)
    epoll.register(read_fd, select.EPOLLIN)
    os.close(read_fd)
    (text,) = blockers(epoll.fileno())
    assert f"under number {read_fd} that has no descriptor left" in text
    assert blockers(epoll.fileno(), kept, write_fd) == []


def test_pseudo_files_are_refused() -> None:
    pid_fd = os.pidfd_open(os.getpid())
    (text,) = blockers(pid_fd)
    assert "not supported" in text


def test_what_a_running_target_closes_meanwhile_is_no_trouble(tmp_path: Path) -> None:
    closed = os.open(tmp_path, os.O_RDONLY)
    reused = os.open(tmp_path, os.O_RDONLY)
    lone, _ = os.pipe()
    process, _ = look([closed, reused, lone], frozen=False)
    os.close(closed)
    os.dup2(os.open("/dev/null", os.O_RDONLY), reused)
    os.close(lone)
    os.dup2(reused, lone)
    assert [str(finding) for finding in files.survey(process) if finding.blocker] == []

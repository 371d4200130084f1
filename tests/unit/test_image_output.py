"""Where images go and come from: files, pipes, full disks, owners."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt.errors import ImageError, ImageUntrustedError, ImageWriteError
from ckpt.image.errors import (
    ImageCorruptError,
    ImageFailedError,
    ImageIncompleteError,
    ImageStalledError,
)
from ckpt.image.reader import open_image_file
from ckpt.image.source import check_trust, invoking_uid
from ckpt.image.writer import ImageWriter
from tests.unit.test_image_samples import HEADER, TYPES, Task, read_pages, write_all, write_image

RECORDS = [Task(tid=number) for number in range(100)]
MEMORY = {1: ([(0x1000, 1 << 20)], bytes(range(256)) * 4096)}


@pytest.fixture
def no_tmpfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem without O_TMPFILE."""
    real_open = os.open

    def open_without(path: str, flags: int, *args: int, **keywords: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real_open(path, flags, *args, **keywords)

    monkeypatch.setattr(os, "open", open_without)


@pytest.fixture(params=["O_TMPFILE", "named"])
def each_way(request: pytest.FixtureRequest) -> None:
    if request.param == "named":
        request.getfixturevalue("no_tmpfile")


@pytest.mark.usefixtures("each_way")
def test_an_existing_image_is_replaced_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(b"the old one")
    with ImageWriter.create(str(path)) as writer:
        writer.write_header(HEADER)
        assert path.read_bytes() == b"the old one"
        writer.commit()
    assert path.read_bytes().startswith(b"CKPT")
    assert os.listdir(tmp_path) == ["a.ckpt"]


@pytest.mark.usefixtures("each_way")
@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_mode_is_0600_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        write_image(tmp_path / "a.ckpt")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a.ckpt").stat().st_mode) == 0o600


@pytest.mark.usefixtures("each_way")
def test_leaving_without_commit_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), ImageWriter.create(str(tmp_path / "a.ckpt")) as writer:
        writer.write_header(HEADER)
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_relative_path_survives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ImageWriter.create("a.ckpt") as writer:
        os.chdir("/")
        writer.write_header(HEADER)
        writer.commit()
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_paths_that_are_no_place_for_an_image(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "link", "fifo"):
        with pytest.raises(ImageWriteError, match=f"{name}: exists and is not a regular file"):
            ImageWriter.create(str(tmp_path / name))
    with pytest.raises(ImageWriteError, match="is a folder"):
        ImageWriter.create(f"{tmp_path}/")
    with pytest.raises(ImageWriteError, match="No such file or directory") as caught:
        ImageWriter.create(str(tmp_path / "missing" / "a"))
    assert caught.value.errno == errno.ENOENT
    assert sorted(os.listdir(tmp_path)) == ["fifo", "folder", "link"]


_CHILD = """
import os, sys
from ckpt.image.writer import ImageWriter
from tests.unit.test_image_samples import HEADER, Task, flat
real = getattr(os, sys.argv[2])
def stop(*args, **keywords):
    print("reached", flush=True)
    sys.stdin.read()
with ImageWriter.create(sys.argv[1]) as writer:
    writer.pages.write_at(writer.pages.begin(1, 4096), bytes(4096))
    writer.pages.end(1, flat([(0, 4096)]))
    writer.write_header(HEADER)
    setattr(os, sys.argv[2], stop)
    writer.commit()
"""


@pytest.mark.parametrize("step", ["preadv", "pwrite", "ftruncate", "fsync", "link", "rename"])
def test_sigkill_at_each_step_leaves_nothing_under_the_name(tmp_path: Path, step: str) -> None:
    path = tmp_path / "a.ckpt"
    if step == "rename":
        path.write_bytes(b"the old one")
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path), step],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout and child.stdout.readline() == b"reached\n"
    child.kill()
    child.communicate(timeout=30)
    assert child.returncode == -signal.SIGKILL
    if step == "rename":
        assert path.read_bytes() == b"the old one"
    else:
        assert os.listdir(tmp_path) == []


_LIMITED = """
import os, resource, sys
from ckpt.errors import ImageWriteError
from ckpt.image.writer import ImageWriter
from tests.unit.test_image_samples import HEADER, Task, flat
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    with ImageWriter.create(sys.argv[1]) as writer:
        if sys.argv[3] == "preallocate":
            writer.preallocate(1 << 20)
        writer.pages.write_at(writer.pages.begin(1, 1 << 20), bytes(1 << 20))
        writer.pages.end(1, flat([(0, 1 << 20)]))
        writer.write_header(HEADER)
        writer.write_records([Task(tid=i, comm="x" * 1000) for i in range(1000)])
        writer.commit()
except ImageWriteError as error:
    print(error.errno, error)
"""


@pytest.mark.parametrize("limit", [1, 4096, 70_000, (1 << 20) + 4096, 3 << 19])
@pytest.mark.parametrize("how", ["preallocate", "write"])
def test_file_size_limit(tmp_path: Path, limit: int, how: str) -> None:
    path = tmp_path / "a.ckpt"
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(path), str(limit), how],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith(f"{errno.EFBIG} {path}: "), done.stderr
    assert "File too large" in done.stdout
    assert os.listdir(tmp_path) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.live
@pytest.mark.parametrize("preallocate", [False, True])
def test_full_disk(small_disk: Path, preallocate: bool) -> None:
    path = small_disk / "a.ckpt"
    path.write_bytes(b"the old one")
    with ImageWriter.create(str(path)) as writer, pytest.raises(ImageWriteError) as caught:
        if preallocate:
            writer.preallocate(2 << 20)
        write_all(writer, RECORDS, {1: ([(0, 2 << 20)], bytes(2 << 20))})
    assert (caught.value.path, caught.value.errno) == (str(path), errno.ENOSPC)
    assert ("no room" in caught.value.what) == preallocate
    assert os.listdir(small_disk) == ["a.ckpt"]
    assert path.read_bytes() == b"the old one"
    path.unlink()
    write_image(path, RECORDS, {1: ([(0, 4096)], bytes(4096))})


@pytest.mark.parametrize("failing", ["fdatasync", "fsync", "folder", "link", "rename"])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "a.ckpt"
    if failing == "rename":
        path.write_bytes(b"the old one")
    name = "fsync" if failing == "folder" else failing
    real = getattr(os, name)

    def fail(*args: int, **keywords: int) -> None:
        if failing == "folder" and not stat.S_ISDIR(os.fstat(args[0]).st_mode):
            return real(*args, **keywords)
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, name, fail)
    with ImageWriter.create(str(path)) as writer, pytest.raises(ImageWriteError) as caught:
        write_all(writer, RECORDS, {1: ([(0, 9 << 20)], bytes(9 << 20))})
    assert (caught.value.path, caught.value.errno) == (str(path), errno.EIO)
    if failing == "rename":
        assert path.read_bytes() == b"the old one"
        path.unlink()
    assert os.listdir(tmp_path) == []


def drain(fd: int, into: bytearray, chunk: int) -> None:
    while data := os.read(fd, chunk):
        into += data
    os.close(fd)


@pytest.mark.parametrize("chunk", [1000, 1 << 16])
def test_stream_into_a_pipe_is_the_file(tmp_path: Path, chunk: int) -> None:
    expected = write_image(tmp_path / "a", RECORDS, MEMORY)
    read_fd, write_fd = os.pipe()
    received = bytearray()
    reader = threading.Thread(target=drain, args=(read_fd, received, chunk))
    reader.start()
    with ImageWriter.to_stream(write_fd) as writer:
        write_all(writer, RECORDS, MEMORY)
    os.close(write_fd)
    reader.join(timeout=60)
    assert bytes(received) == expected


def test_stream_into_a_socket_and_a_file(tmp_path: Path) -> None:
    expected = write_image(tmp_path / "a", RECORDS, MEMORY)
    ours, theirs = socket.socketpair()
    received = bytearray()
    reader = threading.Thread(target=drain, args=(theirs.detach(), received, 1 << 16))
    reader.start()
    with ours, ImageWriter.to_stream(ours.fileno()) as writer:
        write_all(writer, RECORDS, MEMORY)
    reader.join(timeout=60)
    assert bytes(received) == expected
    with (tmp_path / "b").open("wb") as file, ImageWriter.to_stream(file.fileno()) as writer:
        write_all(writer, RECORDS, MEMORY)
    assert (tmp_path / "b").read_bytes() == expected
    null = os.open("/dev/null", os.O_WRONLY)
    with ImageWriter.to_stream(null) as writer:
        write_all(writer, RECORDS, MEMORY)
    os.close(null)


def test_a_reader_that_stops_reading_is_given_up() -> None:
    read_fd, write_fd = os.pipe()
    what = r"took nothing for 0.2 s, \d+ of \d+ bytes"
    writer = ImageWriter.to_stream(write_fd, stall_timeout_s=0.2)
    with writer, pytest.raises(ImageStalledError, match=what):
        write_all(writer, RECORDS, MEMORY)
    # The description is shared with whoever gave us the pipe: it must stay as it was.
    assert os.get_blocking(write_fd)
    os.close(read_fd)
    os.close(write_fd)


def test_a_reader_that_has_gone() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with ImageWriter.to_stream(write_fd) as writer, pytest.raises(ImageWriteError) as caught:
        write_all(writer, RECORDS, MEMORY)
    os.close(write_fd)
    assert caught.value.errno == errno.EPIPE


def test_a_failed_snapshot_says_so_in_the_stream(tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    with ImageWriter.to_stream(write_fd) as writer:
        writer.write_record(Task(tid=1))
        writer.publish_failure("tid 412 fd 7: socket AF_NETLINK: not supported")
    os.close(write_fd)
    with pytest.raises(ImageFailedError, match="tid 412 fd 7: socket AF_NETLINK"):
        open_image_file(read_fd, TYPES)
    os.close(read_fd)
    with ImageWriter.create(str(tmp_path / "a")) as writer:
        writer.publish_failure("whatever")
    assert os.listdir(tmp_path) == []


def test_a_spool_folder_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    with pytest.raises(ImageWriteError) as caught:
        ImageWriter.to_stream(1)
    assert "TMPDIR" in caught.value.hint
    assert caught.value.errno == errno.ENOENT


@pytest.mark.usefixtures("each_way")
def test_an_image_from_a_pipe(tmp_path: Path) -> None:
    data = write_image(tmp_path / "a", RECORDS, MEMORY)
    read_fd, write_fd = os.pipe()

    def write() -> None:
        with open(write_fd, "wb") as pipe:
            pipe.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    with open_image_file(read_fd, TYPES, trusted_uid=os.getuid()) as image:
        assert image.records == RECORDS
        assert read_pages(image) == MEMORY
        image.verify_pages()
    writer.join(timeout=60)
    os.close(read_fd)


def test_standard_input(tmp_path: Path) -> None:
    write_image(tmp_path / "a", RECORDS, MEMORY)
    code = (
        "from ckpt.image.reader import open_image_file as o\n"
        "from tests.unit.test_image_samples import TYPES\n"
        "print(len(o('-', TYPES).records))"
    )
    with (tmp_path / "a").open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=file,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stdout == "100\n", done.stderr


def test_a_pipe_that_brings_something_else_is_not_spooled() -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"y\n" * 100)
    # The pipe stays open: a reader that wanted all of it would hang.
    with pytest.raises(ImageCorruptError, match="not a ckpt-bpf image"):
        open_image_file(read_fd, TYPES)
    os.close(read_fd)
    os.close(write_fd)


def test_sources_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageIncompleteError, match="empty"):
        open_image_file(str(tmp_path / "fifo"), TYPES)
    for path, what in (
        (str(tmp_path), "not a regular file"),
        ("/dev/zero", "not a regular file"),
        (str(tmp_path / "missing"), "No such file or directory"),
        ("a\0b", "cannot open"),
    ):
        with pytest.raises(ImageError, match=what):
            open_image_file(path, TYPES)


def status(uid: int, mode: int) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, uid, 0, 0, 0, 0, 0))


@pytest.mark.parametrize("owner", [0, 1000])
@pytest.mark.parametrize("mode", [0o100600, 0o100644, 0o100400, 0o010666])
def test_trusted(owner: int, mode: int) -> None:
    check_trust(status(owner, mode), 1000)


@pytest.mark.parametrize(
    ("owner", "mode", "what"),
    [
        (1001, 0o100600, "owned by uid 1001, not by root or uid 1000"),
        (1001, 0o010600, "owned by uid 1001"),
        (0, 0o100620, "mode 0620 lets others write it"),
        (1000, 0o100602, "mode 0602 lets others write it"),
    ],
)
def test_untrusted(owner: int, mode: int, what: str) -> None:
    with pytest.raises(ImageUntrustedError, match=what) as caught:
        check_trust(status(owner, mode), 1000, "a.ckpt")
    assert "--trust-image" in caught.value.hint


def test_trust_is_asked_of_the_file_that_was_opened(tmp_path: Path) -> None:
    write_image(tmp_path / "a")
    (tmp_path / "a").chmod(0o666)
    with pytest.raises(ImageUntrustedError):
        open_image_file(str(tmp_path / "a"), TYPES, trusted_uid=os.getuid())
    open_image_file(str(tmp_path / "a"), TYPES).close()


def test_the_user_behind_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    for value, uid in (("1000", 1000), ("", 0), ("x", 0), ("-1", 0)):
        monkeypatch.setenv("SUDO_UID", value)
        assert invoking_uid() == uid
    monkeypatch.setattr(os, "getuid", lambda: 1001)
    monkeypatch.setenv("SUDO_UID", "0")
    assert invoking_uid() == 1001


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    write_image(tmp_path / "a", RECORDS, MEMORY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        write_image(tmp_path / "b", RECORDS, MEMORY)
        open_image_file(str(tmp_path / "b"), TYPES).close()
        os.truncate(tmp_path / "b", 100)
        with pytest.raises(ImageIncompleteError):
            open_image_file(str(tmp_path / "b"), TYPES)
        with pytest.raises(ImageWriteError):
            ImageWriter.create(str(tmp_path))
    assert len(os.listdir("/proc/self/fd")) == before
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)

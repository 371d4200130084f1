"""Every bad image, and every obstacle to a restore, has its own message, and nothing is created."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ckpt.image.format import FORMAT_VERSION, FRAME, encode_frame
from ckpt.image.header import Header
from ckpt.objects.base import Record
from ckpt.objects.cpu_state import CpuRecord, XstateRecord
from tests.live.harness import CFLAGS, PROGRAMS, Build
from tests.live.tickers import (
    Ticker,
    process_exists,
    refusal,
    rewrite_image,
    run_tool,
)

COMMANDS = ("show", "verify", "restore")
XFEATURE_UNKNOWN = 1 << 40


@pytest.fixture(scope="module")
def killed(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ticker]:
    """A ticker that has been snapshotted and is gone, its image beside it."""
    folder = tmp_path_factory.mktemp("ticker")
    with Ticker(build.binary("ticker"), folder) as ticker:
        snapshot_and_reap(ticker)
        yield ticker


@pytest.fixture
def broken(killed: Ticker, tmp_path: Path) -> Path:
    """A copy of the image, to break."""
    copy = tmp_path / "broken.ckpt"
    shutil.copyfile(killed.image, copy)
    return copy


def snapshot_and_reap(ticker: Ticker) -> None:
    done = run_tool("snapshot", str(ticker.pid), "-o", str(ticker.image))
    assert done.returncode == 0, done.stderr
    ticker.reap()


def restore_refusal(ticker: Ticker, image: Path | str, *args: str) -> str:
    """Run a restore that must fail; nobody may have the pid afterwards."""
    said = refusal("restore", str(image), "--detach", *args)
    assert not process_exists(ticker.pid)
    return said


def every_command(ticker: Ticker, image: Path | str, text: str) -> None:
    """Check that no command takes this file for an image, and that each says why."""
    assert text in restore_refusal(ticker, image)
    assert text in refusal("show", str(image))
    done = run_tool("verify", str(image))
    assert done.returncode == 1
    assert text in done.stdout
    assert "Traceback" not in done.stderr


def write_at(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_missing(killed: Ticker, tmp_path: Path) -> None:
    every_command(killed, tmp_path / "none.ckpt", "No such file or directory")


def test_no_image_in_the_folder(tmp_path: Path) -> None:
    assert "no *.ckpt in this folder" in refusal("restore", cwd=tmp_path)


def test_empty(killed: Ticker, tmp_path: Path) -> None:
    empty = tmp_path / "empty.ckpt"
    empty.touch()
    every_command(killed, empty, "empty file, not an image")


def test_something_else(killed: Ticker, tmp_path: Path) -> None:
    every_command(killed, tmp_path, "not a regular file")
    every_command(killed, "/bin/sh", "not a ckpt-bpf image")


def test_truncated(killed: Ticker, broken: Path) -> None:
    size = broken.stat().st_size
    for cut in (1, 31, 4096, size // 2, size - 8, size - 1):
        shutil.copyfile(killed.image, broken)
        os.truncate(broken, cut)
        said = restore_refusal(killed, broken)
        assert f"{broken} at byte {cut}: incomplete: the file ends" in said, cut


def test_any_byte_flipped(killed: Ticker, broken: Path) -> None:
    """Sampled here, a byte in each kind of place; every byte in tests/unit."""
    random.seed(1)
    content = broken.read_bytes()
    places = [0, 17, 40, 4090, 4096 + 100, len(content) - 1, len(content) - 60]
    for place in [*places, *random.sample(range(len(content)), 8)]:
        shutil.copyfile(killed.image, broken)
        write_at(broken, place, bytes([content[place] ^ 0x10]))
        assert str(broken) in restore_refusal(killed, broken), place
        assert run_tool("verify", str(broken)).returncode == 1, place


def test_a_page_damaged(killed: Ticker, broken: Path) -> None:
    """Found while the pages are being read: the half-made process must be gone again."""
    write_at(broken, 4096 + 8, b"damage")
    assert "do not match their checksum" in restore_refusal(killed, broken)
    done = run_tool("verify", str(broken))
    assert "do not match their checksum" in done.stdout


def test_another_format_version(killed: Ticker, broken: Path) -> None:
    """The header of another version, with a good checksum."""
    with broken.open("rb") as file:
        _, _, length, _ = FRAME.unpack(file.read(FRAME.size))
        payload = bytearray(file.read(length))
    payload[8:12] = (FORMAT_VERSION + 7).to_bytes(4, "little")
    write_at(broken, 0, encode_frame(int.from_bytes(b"CKPT", "little"), bytes(payload)))
    every_command(killed, broken, f"format version {FORMAT_VERSION + 7}, this program reads")


def test_another_architecture(killed: Ticker, tmp_path: Path) -> None:
    def change(header: Header) -> Header:
        return msgspec.structs.replace(header, arch="riscv64")

    other = tmp_path / "other.ckpt"
    rewrite_image(killed.image, other, header=change)
    every_command(killed, other, "image of architecture riscv64, this machine is x86_64")


def test_a_cpu_without_what_is_needed(killed: Ticker, tmp_path: Path) -> None:
    """The threads use a component that no CPU has."""

    def change(record: Record) -> Record:
        if isinstance(record, CpuRecord):
            features = record.layout.features | XFEATURE_UNKNOWN
            layout = msgspec.structs.replace(record.layout, features=features)
            return msgspec.structs.replace(record, layout=layout)
        if isinstance(record, XstateRecord):
            area = bytearray(record.area)
            used = int.from_bytes(area[512:520], "little") | XFEATURE_UNKNOWN
            area[512:520] = used.to_bytes(8, "little")
            return msgspec.structs.replace(record, area=bytes(area))
        return record

    other = tmp_path / "other.ckpt"
    rewrite_image(killed.image, other, change)
    said = restore_refusal(killed, other)
    assert f"tid {killed.pid}: " in said
    assert "restore on a CPU that has it" in said
    assert run_tool("verify", str(other)).returncode == 1


def test_a_tail_of_another_image(killed: Ticker, broken: Path, tmp_path: Path) -> None:
    def change(record: Record) -> Record:
        return msgspec.structs.replace(record, ldt=[]) if isinstance(record, CpuRecord) else record

    twin = tmp_path / "twin.ckpt"
    rewrite_image(killed.image, twin, change, lambda h: msgspec.structs.replace(h, boot_id="twin"))
    ours, theirs = broken.read_bytes(), twin.read_bytes()
    at, other_at = ours.rindex(b"TAIL"), theirs.rindex(b"TAIL")
    broken.write_bytes(ours[:at] + theirs[other_at:])
    every_command(killed, broken, "tail ")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: os.chown(path, 65534, 65534), "owned by uid 65534, not by root"),
        (lambda path: path.chmod(0o622), "mode 0622 lets others write it"),
    ],
)
def test_an_untrusted_owner(
    killed: Ticker, broken: Path, spoil: Callable[[Path], None], text: str
) -> None:
    spoil(broken)
    said = restore_refusal(killed, broken)
    assert text in said
    assert "--trust-image" in said
    assert run_tool("show", str(broken)).returncode == 0
    assert run_tool("restore", str(broken), "--dry-run", "--trust-image").returncode == 0


def test_images_are_private(killed: Ticker) -> None:
    assert stat.S_IMODE(killed.image.stat().st_mode) == 0o600


def test_records_that_contradict_each_other(killed: Ticker, tmp_path: Path) -> None:
    """A hostile image, whole and with good checksums: a thread record under another number."""

    def change(record: Record) -> Record:
        if getattr(record, "tid", None) == killed.pid:
            return msgspec.structs.replace(record, tid=1)
        return record

    other = tmp_path / "other.ckpt"
    rewrite_image(killed.image, other, change)
    said = restore_refusal(killed, other)
    assert "the image contradicts itself" in said
    assert f"tid {killed.pid}: has no thread record" in said


def test_the_pid_is_taken(build: Build) -> None:
    with Ticker(build.binary("ticker")) as ticker:
        done = run_tool("snapshot", str(ticker.pid), "-o", str(ticker.image), "--leave-running")
        assert done.returncode == 0, done.stderr
        said = refusal("restore", str(ticker.image), "--detach")
        assert f"pid {ticker.pid}: is taken by process {ticker.pid} (ticker)" in said
        thread = max(ticker.shape.tids)
        assert f"pid {thread}: is taken by a thread of process {ticker.pid}" in said
        ticker.check_untouched()


def test_the_pid_is_a_zombies(build: Build) -> None:
    with Ticker(build.binary("ticker")) as ticker:
        done = run_tool("snapshot", str(ticker.pid), "-o", str(ticker.image))
        assert done.returncode == 0, done.stderr
        said = refusal("restore", str(ticker.image), "--detach")
        assert f"pid {ticker.pid}: is taken by a zombie (ticker) of parent {os.getpid()}" in said


def test_a_mapped_program_changed_or_gone(build: Build, tmp_path: Path) -> None:
    """By build-id: another build is refused, the same build with other times is not."""
    program = tmp_path / "program"
    shutil.copy(build.binary("ticker"), program)
    with Ticker(program, tmp_path) as ticker:
        snapshot_and_reap(ticker)
        kept = tmp_path / "kept"
        program.rename(kept)
        said = restore_refusal(ticker, ticker.image)
        assert f"mapped file '{program}': cannot be opened: No such file or directory" in said
        shutil.copy(build.binary("exec_loop"), program)
        said = restore_refusal(ticker, ticker.image)
        assert f"mapped file '{program}': is another build (its build-id differs)" in said
        assert "install the same version" in said
        shutil.copyfile(kept, program)
        assert run_tool("restore", str(ticker.image), "--detach").returncode == 0
        ticker.check_ticks()


def test_a_mapped_file_without_build_id_changed(tmp_path: Path) -> None:
    program = tmp_path / "program"
    source = PROGRAMS / "ticker.c"
    command = ["gcc", *CFLAGS, "-Wl,--build-id=none", "-o", str(program), str(source)]
    subprocess.run(command, check=True, timeout=60)
    with Ticker(program, tmp_path) as ticker:
        snapshot_and_reap(ticker)
        before = program.stat()
        os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        said = restore_refusal(ticker, ticker.image)
        assert f"mapped file '{program}': has changed since the snapshot (size or mod" in said
        os.utime(program, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert run_tool("restore", str(ticker.image), "--detach").returncode == 0
        ticker.check_ticks()


def test_a_pidfile_that_cannot_be_written(killed: Ticker) -> None:
    said = restore_refusal(killed, killed.image, "--pidfile", "/nowhere/pid")
    assert "/nowhere/pid: pidfile cannot be written: No such file or directory" in said

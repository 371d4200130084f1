"""`python -m ckpt.debug` on the image of a real process: the same values as in the process."""

from __future__ import annotations

import os
import pty
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ckpt.debug.session import Session, open_session
from tests.live.harness import Build, Case, Target

DEBUG = (sys.executable, "-m", "ckpt.debug")


class Sample(NamedTuple):
    """An image of a process that still runs, unchanged: it sleeps in a loop."""

    image: Path
    pid: int
    folder: Path


@pytest.fixture(scope="module")
def sample(build: Build) -> Iterator[Sample]:
    with Target(Case("diff_leak"), build) as target:
        target.start()
        assert target.wait_ready()
        (target.folder / "leak").touch()
        deadline = time.monotonic() + 20
        while not (target.folder / "leaked").exists():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        target.snapshot("--leave-running")
        yield Sample(target.image, target.pid, target.folder)
        target.go("left_running")  # type: ignore[arg-type]
        assert target.wait_result().verdict == "PASS"


@pytest.fixture
def img(sample: Sample) -> Iterator[Session]:
    with open_session(str(sample.image)) as opened:
        yield opened


def test_memory_is_that_of_the_process(img: Session, sample: Sample) -> None:
    """Every writable area but the stacks, byte by byte; code and data of files as well."""
    compared = 0
    # The kernel writes there on its own: on which CPU a thread is.
    own = [(one.rseq.address, one.rseq.length) for one in img.task.threads]
    with open(f"/proc/{sample.pid}/mem", "rb", buffering=0) as mem:
        for area in img.task.areas:
            if area.name.startswith(("stack", "[v")) or area.size > 1 << 20:
                continue
            try:
                now = os.pread(mem.fileno(), area.size, area.start)
            except OSError:
                assert area.protection == "---p"
                continue
            then = img.memory.read(area.start, area.size)
            assert blank(then, area.start, own) == blank(now, area.start, own), area
            compared += area.size
    assert compared > 1 << 20
    assert img.memory.read(img.task.auxv["AT_SYSINFO_EHDR"], 4) == b"\x7fELF"


def blank(data: bytes, start: int, ranges: list[tuple[int, int]]) -> bytes:
    """Return the bytes from `start` on with (address, length) ranges zeroed."""
    found = bytearray(data)
    for address, length in ranges:
        if start <= address < start + len(data):
            found[address - start : address - start + length] = bytes(length)
    return bytes(found)


def test_symbols_both_ways(img: Session) -> None:
    """A global by its name: address, value, back to the name; a pointer and what it points to."""
    memory = img.memory
    assert memory.u32(memory.symbol("leaked_blocks")) == 403
    assert memory.locate(memory.symbol("leaked_blocks")) == "diff_leak leaked_blocks"
    assert struct.unpack("<d", memory["rate"]) == (1.5,)
    last = memory.pointer(memory.symbol("last_leak"))
    assert repr(last).endswith("(heap)")
    assert memory.read(last, 4) == bytes([400 % 256]) * 4
    assert memory.find_symbol("table").size == 5 * 4096
    table = memory.symbol("table")
    assert memory.locate(table + 4097) == "diff_leak table+0x1001"
    assert memory.symbol("malloc", "libc.so.6")
    with pytest.raises(LookupError):
        memory.symbol("no_such_name")


def test_threads_and_their_calls(img: Session, sample: Sample) -> None:
    """The call, the restart_block and the stack of a thread that sleeps in a function we know."""
    task = img.tasks[sample.pid]
    leader, other = task.threads
    assert (other.comm, other.restart_block.clockid) == ("leaked", 1)  # type: ignore[union-attr]
    assert 0 < other.restart_block.remaining_ns <= 600 * 10**9  # type: ignore[union-attr]
    assert other.restart_block.fn == "hrtimer_nanosleep_restart"  # type: ignore[union-attr]
    assert other.call.remaining_s is not None
    frames = other.backtrace()
    assert [one for one in frames if one.place.startswith("diff_leak sleep_on+")], frames
    assert [one for one in leader.backtrace() if one.place.startswith("diff_leak main+")]
    assert repr(other.regs.rip).startswith("0x")
    assert "libc.so.6" in repr(other.regs.rip)
    assert leader.signals.blocked == leader.signals.pending == ["SIGUSR2"]
    assert "on_usr1" in repr(task.dispositions["SIGUSR1"])


def test_the_task_is_what_proc_shows(img: Session, sample: Sample) -> None:
    """Arguments, environment, descriptors, limits: two sources for each."""
    proc = Path(f"/proc/{sample.pid}")
    task = img.task
    assert task.args == (proc / "cmdline").read_text().split("\0")[:-1]
    assert task.exe == os.readlink(proc / "exe")
    lines = (proc / "environ").read_bytes().split(b"\0")
    assert len(task.environ) == len([line for line in lines if line])
    assert set(task.fds) == {int(fd) for fd in os.listdir(proc / "fd")}
    paths = {fd: os.readlink(proc / f"fd/{fd}") for fd in task.fds}
    assert all(one.path == paths[fd] for fd, one in task.fds.items() if one.path)
    assert task.limits["CORE"][0] in (0, 4096)
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    assert list(task.credentials.uids)[:3] == [int(x) for x in status["Uid"].split()][:3]  # type: ignore[union-attr]


def test_code_and_scripts(sample: Sample) -> None:
    """Non-interactive use, as a program of its own."""
    code = f"print(img.tasks[{sample.pid}].threads[1].restart_block.fn)"
    done = subprocess.run(
        [*DEBUG, str(sample.image), "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "hrtimer_nanosleep_restart\n"), done.stderr
    piped = subprocess.run(
        [*DEBUG, "-", "-c", "print(len(img.task.threads))"],
        stdin=sample.image.open("rb"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (piped.returncode, piped.stdout) == (0, "2\n"), piped.stderr


def test_the_interpreter_completes_with_tab(sample: Sample) -> None:
    """On a terminal: the banner, a completed attribute behind a subscript, the end by ^D."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ["TERM"] = "dumb"
        os.execv(DEBUG[0], [*DEBUG, str(sample.image)])
    try:
        said = _read_until(terminal, b">>> ", b"")
        assert b"img = <image " in said
        os.write(terminal, b"img.tasks[%d].threads[1].com\t\n" % sample.pid)
        said = _read_until(terminal, b"'leaked'", said)
        _read_until(terminal, b">>> ", said[said.rindex(b"'leaked'") :])
        os.write(terminal, b"\x04")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        pid = 0
    finally:
        os.close(terminal)
        if pid:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def _read_until(terminal: int, wanted: bytes, said: bytes) -> bytes:
    deadline = time.monotonic() + 30
    while wanted not in said:
        ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
        assert ready, said
        said += os.read(terminal, 4096)
    return said

"""Every bad target has its own message, exit 1, and nothing has happened to it."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.harness import Build
from tests.live.tickers import (
    ROOT,
    TOOL,
    Ticker,
    check_refusal,
    process_exists,
    refusal,
    run_tool,
    started,
    tracers,
    wait_for,
)

TRACER = """
import signal, sys
from ckpt.host import ptrace
ptrace.seize(int(sys.argv[1]))
print("ready", flush=True)
signal.pause()
"""
# No libc: 32-bit headers and libraries need not be installed.
PAUSE_32 = ".globl _start\n_start: mov $29, %eax\nint $0x80\njmp _start\n"
UNSUPPORTED = """
import os, signal, socket, sys, ctypes
net = socket.socket(socket.AF_INET)
inotify = ctypes.CDLL(None).inotify_init()
child = os.fork()
if child == 0:
    signal.pause()
print(net.fileno(), inotify, child, flush=True)
signal.pause()
"""


@pytest.fixture
def ticker(build: Build) -> Iterator[Ticker]:
    """A running ticker."""
    with Ticker(build.binary("ticker")) as found:
        yield found


def snapshot(pid: int | str, folder: Path, *args: str, **options: object) -> str:
    """Run a snapshot that must be refused; nothing may be left in the folder."""
    before = sorted(os.listdir(folder))
    said = refusal("snapshot", str(pid), *args, cwd=folder, **options)
    assert sorted(os.listdir(folder)) == before
    return said


def test_no_such_process(tmp_path: Path) -> None:
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    assert f"pid {child.pid}: no such process" in snapshot(child.pid, tmp_path)


def test_a_kernel_thread(tmp_path: Path) -> None:
    assert not os.path.exists("/proc/2/exe")
    assert "pid 2: is a kernel thread" in snapshot(2, tmp_path)


def test_a_zombie(tmp_path: Path) -> None:
    child = subprocess.Popen(["/bin/true"])
    stat = Path(f"/proc/{child.pid}/stat")
    wait_for("the zombie", lambda: ") Z " in stat.read_text())
    said = snapshot(child.pid, tmp_path)
    child.wait()
    assert f"parent {os.getpid()} " in said
    assert "zombie" in said


def test_init(tmp_path: Path) -> None:
    assert "pid 1: is init" in snapshot(1, tmp_path)


def test_itself(tmp_path: Path) -> None:
    command = f'exec "{TOOL[0]}" -m ckpt.cli snapshot $$'
    done = subprocess.run(
        ["/bin/sh", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    check_refusal(done.returncode, done.stderr)
    assert "this program itself" in done.stderr


def test_a_thread_of_a_process(ticker: Ticker, tmp_path: Path) -> None:
    tid = max(ticker.shape.tids)
    said = snapshot(tid, tmp_path)
    assert f"pid {tid}: is a thread of process {ticker.pid}" in said
    assert f"ckpt-bpf snapshot {ticker.pid}" in said


@pytest.mark.parametrize("which", ["leader", "thread"])
def test_a_traced_process(ticker: Ticker, tmp_path: Path, which: str) -> None:
    tid = ticker.pid if which == "leader" else max(ticker.shape.tids)
    command = (sys.executable, "-c", TRACER, str(tid))
    with started(*command, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == b"ready\n"
        said = snapshot(ticker.pid, tmp_path)
        assert f"is traced by process {tracer.pid}" in said
        assert tracers(ticker.pid) == {tracer.pid}
    ticker.check_untouched()


def test_a_parent_in_vfork(build: Build, tmp_path: Path) -> None:
    with started(build.binary("vfork_parent"), tmp_path, start_new_session=True) as parent:
        try:
            wait_for("vfork", (tmp_path / "ready").exists)
            child = int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
            started_s = time.monotonic()
            said = snapshot(parent.pid, tmp_path)
            assert f"waits in vfork until its child {child} (vfork_parent)" in said
            assert time.monotonic() - started_s < 10  # It was not stopped in vain.
            assert not tracers(parent.pid)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)


@contextmanager
def frozen_cgroup(pid: int) -> Iterator[None]:
    """Freeze a process by cgroup v1: it stays in state D until the end.

    The freezer itself ends calls like epoll_wait with EINTR, once.
    """
    root = Path("/sys/fs/cgroup/freezer")
    if not (root / "cgroup.procs").exists():
        pytest.skip("not run: this machine has no cgroup v1 freezer")
    group = root / f"ckpt-test-{pid}"
    group.mkdir()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        state = group / "freezer.state"
        state.write_text("FROZEN")
        wait_for("the freezer", lambda: state.read_text() == "FROZEN\n")
        yield
        state.write_text("THAWED")
    finally:
        (group / "freezer.state").write_text("THAWED")
        if process_exists(pid):
            (root / "cgroup.procs").write_text(str(pid))
        wait_for("an empty group", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_state_d(ticker: Ticker, tmp_path: Path) -> None:
    with frozen_cgroup(ticker.pid):
        said = snapshot(ticker.pid, tmp_path, "--timeout", "1")
    assert f"process {ticker.pid}: threads did not stop within 1 s: {ticker.pid} (" in said
    assert "--timeout" in said
    ticker.check_untouched(eintrs=1)


def test_a_failed_snapshot_says_so_in_its_stream(ticker: Ticker, tmp_path: Path) -> None:
    """Who restores from a pipe learns why there is no image."""
    command = [*TOOL, "snapshot", str(ticker.pid), "-o", "-", "--timeout", "1"]
    stream = tmp_path / "stream"
    with frozen_cgroup(ticker.pid), stream.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    check_refusal(done.returncode, done.stderr)
    said = refusal("restore", str(stream), "--detach")
    assert f"holds no process, its snapshot failed: process {ticker.pid}: threads did not" in said
    ticker.check_untouched(eintrs=1)


def test_deadline_in_state_d(ticker: Ticker, tmp_path: Path) -> None:
    started_s = time.monotonic()
    with frozen_cgroup(ticker.pid):
        said = snapshot(ticker.pid, tmp_path, "--deadline", "1")
    assert "not done within 1 s: stop every thread" in said
    assert time.monotonic() - started_s < 8
    ticker.check_untouched(eintrs=1)


@pytest.mark.parametrize("who", ["main", "thread"])
def test_a_process_that_executes_itself(build: Build, tmp_path: Path, who: str) -> None:
    """Whatever the moment, it is a whole snapshot or a refusal, and the program goes on."""
    said = set()
    with started(build.binary("exec_loop"), tmp_path, who) as target:
        wait_for("its start", (tmp_path / "ready").exists)
        for _ in range(6):
            done = run_tool("snapshot", str(target.pid), "--leave-running", cwd=tmp_path)
            if done.returncode:
                check_refusal(done.returncode, done.stderr)
                said.add(re.sub(r"\d+", "N", done.stderr.splitlines()[0]))
            (tmp_path / "ready").unlink(missing_ok=True)
            wait_for("the next program", (tmp_path / "ready").exists)
            assert not tracers(target.pid)
    print("refusals:", *sorted(said), sep="\n  ")


def test_a_process_that_ends(tmp_path: Path) -> None:
    """Ends 0 to 200 ms after the tool starts: a snapshot, or a refusal that says so."""
    said = set()
    for step in range(8):
        with started("/bin/sleep", str(0.03 + step * 0.03)) as target:
            done = run_tool("snapshot", str(target.pid), cwd=tmp_path)
            image = tmp_path / f"{target.pid}.ckpt"
            assert image.exists() == (done.returncode == 0)
            if done.returncode:
                check_refusal(done.returncode, done.stderr)
                said.add(re.sub(r"\d+", "N", done.stderr.splitlines()[0]))
    print("refusals:", *sorted(said), sep="\n  ")


def test_a_32_bit_program(tmp_path: Path) -> None:
    source, binary = tmp_path / "pause.S", tmp_path / "pause"
    source.write_text(PAUSE_32)
    subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-o", binary, source], check=True)
    with started(binary, stdin=subprocess.DEVNULL) as target:
        exe = f"/proc/{target.pid}/exe"
        wait_for("exec", lambda: os.readlink(exe) == str(binary))
        assert "is a 32-bit program" in snapshot(target.pid, tmp_path)
        assert target.poll() is None


def test_everything_unsupported_is_listed(tmp_path: Path) -> None:
    with started(
        sys.executable, "-c", UNSUPPORTED, stdout=subprocess.PIPE, start_new_session=True
    ) as target:
        try:
            assert target.stdout is not None
            net, inotify, child = target.stdout.readline().split()
            said = snapshot(target.pid, tmp_path)
            lines = said.splitlines()
            assert [line for line in lines if f"fd {net.decode()}: " in line]
            assert [line for line in lines if f"fd {inotify.decode()}: " in line]
            assert [line for line in lines if f"has a child: {child.decode()} " in line]
            assert not tracers(target.pid)
        finally:
            os.killpg(target.pid, signal.SIGKILL)


@pytest.mark.parametrize("command", ["snapshot", "restore"])
def test_no_privilege(ticker: Ticker, tmp_path: Path, command: str) -> None:
    image = tmp_path / "some.ckpt"
    image.write_bytes(b"")
    args = [str(ticker.pid)] if command == "snapshot" else [str(image)]
    said = refusal(command, *args, user=65534, group=65534, extra_groups=[], cwd="/")
    assert f"only root can {command}" in said
    assert f"sudo ckpt-bpf {command}" in said
    ticker.check_untouched()


def test_outputs_that_cannot_be(ticker: Ticker, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    pid = str(ticker.pid)
    assert "No such file or directory" in snapshot(pid, tmp_path, "-o", "none/image")
    assert "is a folder" in snapshot(pid, tmp_path, "-o", f"{tmp_path}/")
    assert "not a regular file" in snapshot(pid, tmp_path, "-o", str(link))
    assert "log cannot be opened" in snapshot(pid, tmp_path, "--log", "none/log")
    ticker.check_untouched()


def test_a_full_disk(ticker: Ticker, tmp_path: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(tmp_path).encode(), b"tmpfs", 0, b"size=64k"):
        raise OSError(ctypes.get_errno(), "mount")
    try:
        said = snapshot(ticker.pid, tmp_path)
        assert f"{ticker.pid}.ckpt: " in said
        assert "No space left on device" in said
    finally:
        assert libc.umount2(str(tmp_path).encode(), 2) == 0
    ticker.check_untouched()


@contextmanager
def streaming(ticker: Ticker, *args: str) -> Iterator[subprocess.Popen[str]]:
    """Run a snapshot into a pipe that nobody reads."""
    reader, writer = os.pipe()
    command = [*TOOL, "snapshot", str(ticker.pid), "-o", "-", *args]
    try:
        with subprocess.Popen(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT
        ) as tool:
            os.close(writer)
            yield tool
    finally:
        os.close(reader)


def test_a_slow_reader_does_not_hold_a_running_process(ticker: Ticker) -> None:
    with streaming(ticker, "--leave-running", "--timeout", "3") as tool:
        assert tool.stderr is not None
        wait_for("the freeze", lambda: tracers(ticker.pid) != set())
        wait_for("the thaw", lambda: not tracers(ticker.pid))
        ticker.check_ticks()
        assert tool.poll() is None, "it has not waited for its reader"
        said = tool.stderr.read()
    check_refusal(tool.returncode, said)
    assert "reader took nothing for 3 s" in said
    ticker.check_untouched()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("--timeout", "1"), "reader took nothing for 1 s"),
        (("--deadline", "2"), "not done within 2 s: write the image"),
    ],
)
def test_a_slow_reader_is_given_up(ticker: Ticker, args: tuple[str, ...], reason: str) -> None:
    """A process that was to be killed after the snapshot runs on when there is none."""
    with streaming(ticker, *args) as tool:
        assert tool.stderr is not None
        said = tool.stderr.read()
    check_refusal(tool.returncode, said)
    assert reason in said
    ticker.check_untouched()


@pytest.mark.parametrize("signo", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_frozen(ticker: Ticker, signo: signal.Signals) -> None:
    with streaming(ticker) as tool:
        assert tool.stderr is not None
        wait_for("the freeze", lambda: tracers(ticker.pid) == {tool.pid})
        wait_for("the stop", ticker.is_still)
        tool.send_signal(signo)
        said = tool.stderr.read()
    check_refusal(tool.returncode, said)
    assert f"interrupted by {signo.name}" in said
    ticker.check_untouched()


def test_a_target_killed_while_frozen(build: Build) -> None:
    """The tool neither hangs nor breaks, whoever kills the process that it holds."""
    ticker = Ticker(build.binary("ticker"))
    with ticker, streaming(ticker, "--timeout", "2") as tool:
        assert tool.stderr is not None
        wait_for("the freeze", lambda: tracers(ticker.pid) == {tool.pid})
        wait_for("the stop", ticker.is_still)
        os.kill(ticker.pid, signal.SIGKILL)
        said = tool.stderr.read()
    check_refusal(tool.returncode, said)
    assert "reader took nothing for 2 s" in said


def test_signals_at_any_time(ticker: Ticker, tmp_path: Path) -> None:
    """Early, late and in between: an image or none, never a broken process or a traceback.

    The installed command is meant: `python -m` imports for a while before any line of ours runs.
    """
    command = Path(sys.executable).with_name("ckpt-bpf")
    for step in range(12):
        image = tmp_path / f"{step}.ckpt"
        args = [str(command), "snapshot", str(ticker.pid), "--leave-running", "-o", str(image)]
        with subprocess.Popen(args, stdout=-3, stderr=subprocess.PIPE, text=True) as tool:
            timer = threading.Timer(0.1 + step * 0.03, tool.send_signal, [signal.SIGINT])
            timer.start()
            _, said = tool.communicate(timeout=60)
            timer.cancel()
        if tool.returncode == 1:
            check_refusal(tool.returncode, said)
        else:
            # Killed before it had begun, or done before the signal came.
            assert tool.returncode in (0, -signal.SIGINT)
            assert not said
        assert image.exists() == (tool.returncode == 0)
        ticker.check_untouched()

"""`core --live`: of anything, harmless, and stopping it no longer than a snapshot does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.harness import Build
from tests.live.stepping import choose_stops, run_stepped
from tests.live.test_core import gdb, good
from tests.live.tickers import Ticker, run_tool, started, tracers, wait_for

EARLY, LATE, AT_PTRACE = 2, 6, 7
PAGES = 96 << 20


@pytest.fixture
def ticker(build: Build) -> Iterator[Ticker]:
    """A running ticker."""
    with Ticker(build.binary("ticker")) as found:
        yield found


def test_the_tool_killed_at_any_step(ticker: Ticker, tmp_path: Path) -> None:
    """The process runs on as it was; under the name is nothing, or all of a core."""
    core = tmp_path / "core"
    args = ["core", "--live", str(ticker.pid), "-o", str(core)]
    whole = run_stepped(args, name_calls=True)
    assert whole.exit_code == 0, whole.said
    size = core.stat().st_size
    core.unlink()
    stops = choose_stops(whole.calls, EARLY, LATE, AT_PTRACE)
    outcomes: Counter[str] = Counter()
    for at in stops:
        run = run_stepped(args, kill_at=at)
        assert run.exit_code in (0, None), run.said
        outcomes["killed" if run.exit_code is None else "done"] += 1
        if core.exists():
            assert core.stat().st_size == size
            core.unlink()
            outcomes["with a core"] += 1
        assert os.listdir(tmp_path) == []
        # Calls that a stop has ended with EINTR and that nobody has rewound yet.
        ticker.check_untouched(eintrs=len(stops))
    print(f"{len(stops)} kills: {dict(outcomes)}, EINTR: {ticker.eintrs()}")
    assert outcomes["killed"] > len(stops) // 2


def test_interrupted(ticker: Ticker, tmp_path: Path) -> None:
    """SIGINT ends it with nothing left behind."""
    command = [sys.executable, "-m", "ckpt.cli", "core", "--live", str(ticker.pid), "-v"]
    with subprocess.Popen(
        [*command, "-o", str(tmp_path / "core")], stderr=subprocess.PIPE, text=True
    ) as tool:
        assert tool.stderr is not None
        for line in tool.stderr:
            if "stop every thread" in line:
                break
        tool.send_signal(signal.SIGINT)
        said = tool.stderr.read()
        assert tool.wait() in (0, 1)
    if tool.returncode:
        assert "interrupted by SIGINT" in said
        assert os.listdir(tmp_path) == []
    ticker.check_untouched()


ODD = r"""
import ctypes, os, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.shmat.restype = ctypes.c_void_p
listener = socket.create_server(("127.0.0.1", 0))
connection = socket.create_connection(listener.getsockname())
child = subprocess.Popen(["sleep", "1000"])
print(child.pid)
segment = libc.shmget(0, 8192, 0o1600)
shm = libc.shmat(segment, None, 0)
libc.shmctl(segment, 0, None)
ctypes.memmove(shm, b"System V", 9)
print(shm)
context = ctypes.c_ulong(0)
libc.syscall(206, 8, ctypes.byref(context))  # io_setup
guarded = libc.mmap(None, ctypes.c_size_t(4 << 12), 3, 0x22, -1, 0)
ctypes.memset(guarded, 65, 4 << 12)
libc.madvise(ctypes.c_void_p(guarded), ctypes.c_size_t(4096), 102)  # MADV_GUARD_INSTALL
print(guarded + 4096)
if libc.unshare(0x00020000 | 0x04000000 | 0x08000000 | 0x40000000):  # mount, UTS, IPC, network
    raise OSError(ctypes.get_errno(), "unshare")
threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
print("ready", flush=True)
time.sleep(1e6)
"""


def test_a_process_that_no_snapshot_takes(tmp_path: Path) -> None:
    """Sockets, a child, namespaces, System V memory, an AIO ring, guard pages."""
    core = tmp_path / "core"
    with started(sys.executable, "-c", ODD, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child, shm, guarded = (int(process.stdout.readline()) for _ in range(3))
        try:
            assert process.stdout.readline() == b"ready\n"
            refused = run_tool("snapshot", str(process.pid), "-o", str(tmp_path / "image"))
            assert refused.returncode == 1
            good("core", "--live", str(process.pid), "-o", str(core))
            assert not tracers(process.pid)
            assert process.poll() is None
            exe = os.path.realpath(f"/proc/{process.pid}/exe")
        finally:
            os.kill(child, signal.SIGKILL)
    asked = [f"x/s {shm}", f"x/2c {guarded}", "info threads"]
    lines = gdb(exe, str(core), commands=asked)
    assert '"System V"' in lines[0]
    assert "65 'A'" in lines[1]
    assert sum("LWP" in line for line in lines) == 2


def test_a_stopped_process(tmp_path: Path) -> None:
    """It stays stopped, and the core says by what."""
    with started("sleep", "1000") as process:
        process.send_signal(signal.SIGSTOP)
        wait_for("its stop", lambda: state_of(process.pid) == "T")
        core = tmp_path / "core"
        good("core", "--live", str(process.pid), "-o", str(core))
        wait_for("its stop again", lambda: state_of(process.pid) == "T")
        shown = gdb("/bin/sleep", str(core), commands=["p $_siginfo.si_signo"])
        assert shown == ["= 19"]
        process.send_signal(signal.SIGCONT)
        wait_for("its sleep", lambda: state_of(process.pid) == "S")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_whose_main_thread_has_ended(build: Build, tmp_path: Path) -> None:
    binary = build.binary("leader_exited")
    with started(binary, tmp_path, stdout=subprocess.DEVNULL) as process:
        wait_for("it", (tmp_path / "ready").exists)
        core = tmp_path / "core"
        said = good("core", "--live", str(process.pid), "-o", str(core))
        assert f"process {process.pid}: 2 threads" in said
        lines = gdb(str(binary), str(core), commands=["thread apply all bt"])
    text = "\n".join(lines)
    assert " third (" in text
    assert " rest (" in text


def test_a_full_disk(ticker: Ticker, tmp_path: Path) -> None:
    """The core that stood there stays, and nothing else."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", small], check=True)
    try:
        core = small / "core"
        core.write_text("before")
        good("snapshot", str(ticker.pid), "--leave-running", "-o", str(ticker.image))
        for args in (["--live", str(ticker.pid)], [str(ticker.image)]):
            done = run_tool("core", *args, "-o", str(core))
            assert done.returncode == 1
            assert "No space left on device" in done.stderr
            assert os.listdir(small) == ["core"]
            assert core.read_text() == "before"
        ticker.image.unlink()
        ticker.check_untouched()
    finally:
        subprocess.run(["umount", small], check=True)


FILLER = """
import sys, time
pages = bytearray(int(sys.argv[1]))
pages[::4096] = b"x" * len(pages[::4096])
print(flush=True)
time.sleep(1e6)
"""


def test_it_is_stopped_as_long_as_for_a_snapshot(tmp_path: Path) -> None:
    """Both take the same pages; measured in turn, for the machine is not always as fast."""
    frozen: dict[str, list[float]] = {"snapshot": [], "core": []}
    with started(sys.executable, "-c", FILLER, str(PAGES), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        pid, out = str(process.pid), str(tmp_path / "out")
        for _ in range(3):
            said = good("snapshot", pid, "--leave-running", "--json", "-o", out)
            frozen["snapshot"].append(json.loads(said)["frozen_s"])
            said = good("core", "--live", pid, "--json", "-o", out)
            found = json.loads(said)
            frozen["core"].append(found["frozen_s"])
            assert PAGES < found["disk_bytes"] < PAGES + (32 << 20)
    for what, times in frozen.items():
        print(f"{what}: frozen {', '.join(f'{time_s * 1000:.1f} ms' for time_s in times)}")
    assert min(frozen["core"]) < 2 * min(frozen["snapshot"]) + 0.01


def test_names_are_harmless(tmp_path: Path) -> None:
    """A mapped file's name does not reach the terminal as it is."""
    name = tmp_path / "\x1b]0;owned\x07file"
    text = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
os.truncate(fd, 4096)
private = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE)
private[0] = 1
print(flush=True)
time.sleep(1e6)
"""
    image, core = str(tmp_path / "image"), str(tmp_path / "core")
    with started(sys.executable, "-c", text, str(name), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        good("snapshot", str(process.pid), "-o", image)
    os.truncate(name, 8192)
    done = run_tool("core", image, "-o", core)
    assert done.returncode == 0, done.stderr
    assert "has changed since the snapshot" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert "\x07" not in done.stderr + done.stdout

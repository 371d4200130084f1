"""The commands as scripts use them: what they print, leave behind and exit with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import ckpt
from tests.live.harness import Build
from tests.live.tickers import (
    TOOL,
    WAITS,
    Ticker,
    end_process,
    process_exists,
    refusal,
    run_tool,
    wait_for,
)

KERNEL_ADDRESS = re.compile(r"\b(0x)?ffff[89a-f][0-9a-f]{11}\b")
"""The upper half, but for the vsyscall page, which is the same everywhere and no secret."""
VSYSCALL = "ffffffffff600000"


@pytest.fixture
def ticker(build: Build) -> Iterator[Ticker]:
    """A running ticker."""
    with Ticker(build.binary("ticker")) as found:
        yield found


def good(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ckpt-bpf, which must exit with 0."""
    done = run_tool(*args, **options)
    assert done.returncode == 0, done.stderr
    return done


def check_no_addresses(text: str) -> None:
    """Check that no kernel address is in what the tool wrote."""
    assert not KERNEL_ADDRESS.search(text.replace(VSYSCALL, ""))


def test_a_snapshot_alone_and_a_restore_alone(ticker: Ticker) -> None:
    """PID.ckpt in this folder, the process killed; the newest image, and its process stays ours."""
    said = good("snapshot", str(ticker.pid), cwd=ticker.folder).stdout
    ticker.reap()
    name = f"{ticker.pid}.ckpt"
    assert re.match(
        rf"process {ticker.pid}: 5 threads, \d+ bytes in {name}, frozen 0\.\d+ s\n", said
    )
    tool = subprocess.Popen(
        [*TOOL, "restore"], cwd=ticker.folder, stderr=subprocess.PIPE, text=True
    )
    with tool:
        ticker.check_ticks()
        parent = Path(f"/proc/{ticker.pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) == tool.pid
        tool.send_signal(signal.SIGUSR2)
        assert tool.wait(20) == -signal.SIGUSR2
        assert tool.stderr is not None
        assert tool.stderr.read() == f"restoring {name}\n"
    assert not process_exists(ticker.pid)
    assert not ticker.eintrs()


def test_the_exit_status_is_the_process_s(tmp_path: Path) -> None:
    """A shell that sleeps and then exits with 7 does so under restore."""
    image = tmp_path / "sh.ckpt"
    shell = subprocess.Popen(
        ["/bin/sh", "-c", "read -r line; exit 7"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with shell:
        stat = Path(f"/proc/{shell.pid}/stat")
        wait_for("its sleep", lambda: ") S " in stat.read_text())
        good("snapshot", str(shell.pid), "-o", str(image), stdin=shell.stdin)
    done = run_tool("restore", str(image), input="go\n", stdin=None)
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_json_of_a_snapshot(ticker: Ticker, tmp_path: Path) -> None:
    log = tmp_path / "log"
    args = ("--leave-running", "--json", "--log", str(log), "-o", str(ticker.image))
    done = good("snapshot", str(ticker.pid), *args)
    found = json.loads(done.stdout)
    assert set(found) == {
        *("pid", "image", "image_bytes", "frozen_s", "wall_s", "threads", "sources", "warnings"),
    }
    assert (found["pid"], found["threads"]) == (ticker.pid, len(WAITS))
    assert found["image_bytes"] == ticker.image.stat().st_size
    assert 0 < found["frozen_s"] < found["wall_s"] < 30
    assert found["warnings"] == []
    sources = found["sources"]
    assert set(sources) == {"bpf", "ptrace", "proc"}
    assert "deadlines of blocked calls" in sources["bpf"]
    assert "general registers" in sources["ptrace"]
    assert "memory layout" in sources["proc"]
    check_no_addresses(done.stdout + log.read_text())
    check_no_addresses(good("show", str(ticker.image)).stdout)
    check_no_addresses(good("show", str(ticker.image), "--json").stdout)
    ticker.check_untouched()


def test_without_bpf_the_sources_say_so(ticker: Ticker) -> None:
    done = good(
        "snapshot",
        str(ticker.pid),
        "--leave-running",
        "--no-bpf",
        "--json",
        "-o",
        str(ticker.image),
    )
    found = json.loads(done.stdout)
    assert found["sources"]["bpf"] == []
    assert "caught and ignored signals" in found["sources"]["proc"] or found["sources"]["ptrace"]
    assert found["warnings"], "what could not be seen is told"
    ticker.check_ticks()


def test_show_names_threads_calls_and_places(ticker: Ticker) -> None:
    wanted = (r"epoll_(p?)wait: reissue", "rt_sigtimedwait: reissue", "poll: rearm")
    for _ in range(40):
        # The threads wait for milliseconds: now and then one of them is between two calls.
        good("snapshot", str(ticker.pid), "--leave-running", "-o", str(ticker.image))
        said = good("show", str(ticker.image)).stdout
        lines = said.splitlines()
        threads = [line for line in lines if line.startswith("thread ") and "(ticker)" in line]
        assert len(threads) == len(WAITS)
        if all(any(re.search(text, line) for line in threads) for text in wanted):
            break
    else:
        raise AssertionError(threads)
    assert lines.count("  cwd: '" + str(ticker.folder) + "'") == 1
    assert "  instruction: syscall at 0x" in said
    assert re.search(r"rip: 0x[0-9a-f]+ \(libc\.so\.6 \w+\+0x[0-9a-f]+\)", said)
    assert f"file {ticker.folder}/counters: 4096 bytes" in said
    plain = json.loads(good("show", str(ticker.image), "--json").stdout)
    assert {thread["tid"] for thread in plain["threads"]} == set(ticker.shape.tids)
    kinds = {record["type"] for record in plain["records"]}
    assert {"process", "thread", "areas", "mm", "files", "sighand", "creds", "limits"} <= kinds


def test_verify_and_dry_run(ticker: Ticker) -> None:
    image = str(ticker.image)
    good("snapshot", str(ticker.pid), "-o", image)
    ticker.reap()
    assert good("verify", image).stdout == f"{image}: whole, consistent, restorable here\n"
    assert json.loads(good("verify", image, "--json").stdout)["ok"] is True
    said = good("restore", image, "--dry-run").stdout
    assert not process_exists(ticker.pid)
    for tid in ticker.shape.tids:
        assert re.search(rf"^thread {tid} \(ticker\): \w+: \w+", said, re.M)
    assert re.search(r"^plan: \d+ steps, \d+ system calls on \d+ tapes$", said, re.M)
    assert re.search(
        rf"^\[tid {ticker.pid}\] mmap\(0x\S+ \(heap\), \d+, PROT_READ\|PROT_WRITE, ", said, re.M
    )
    assert "load registers, rip 0x" in said
    plain = json.loads(good("restore", image, "--dry-run", "--json").stdout)
    assert plain["pid"] == ticker.pid
    assert {step["executor"] for step in plain["steps"]} == {"host", "tape", "ptrace"}
    check_no_addresses(said)


def test_verify_and_dry_run_name_what_stands_in_the_way(ticker: Ticker) -> None:
    image = str(ticker.image)
    good("snapshot", str(ticker.pid), "--leave-running", "-o", image)
    done = run_tool("verify", image)
    assert done.returncode == 1
    assert f"pid {ticker.pid}: is taken by process {ticker.pid} (ticker)\n" in done.stdout
    done = run_tool("restore", image, "--dry-run")
    assert done.returncode == 1
    assert "plan: " in done.stdout
    assert f"pid {ticker.pid}: is taken by" in done.stderr
    ticker.check_untouched()


def test_detach_pidfile_and_json(ticker: Ticker, tmp_path: Path) -> None:
    good("snapshot", str(ticker.pid), "-o", str(ticker.image))
    ticker.reap()
    pidfile, log = tmp_path / "pid", tmp_path / "log"
    done = good(
        *("restore", str(ticker.image), "--detach", "--pidfile", str(pidfile), "--json"),
        *("--log", str(log), "-v"),
    )
    assert pidfile.read_text() == f"{ticker.pid}\n"
    found = json.loads(done.stdout)
    assert (found["pid"], found["threads"]) == (ticker.pid, len(WAITS))
    ticker.check_ticks()
    assert not ticker.eintrs()
    steps = log.read_text()
    assert "create process" in steps
    assert "commit" in steps
    assert "create process" in done.stderr
    check_no_addresses(steps)


def test_a_pipe_from_snapshot_to_restore(ticker: Ticker) -> None:
    with open(ticker.folder / "stream", "wb") as out:
        command = [*TOOL, "snapshot", str(ticker.pid), "-o", "-"]
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"process {ticker.pid}: 5 threads" in done.stderr
    ticker.reap()
    with subprocess.Popen(["/bin/cat", ticker.folder / "stream"], stdout=subprocess.PIPE) as cat:
        good("restore", "-", "--detach", stdin=cat.stdout)
    ticker.check_ticks()


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_left_stopped_and_restored_stopped(ticker: Ticker) -> None:
    good("snapshot", str(ticker.pid), "--leave-stopped", "-o", str(ticker.image))
    wait_for("the stop", lambda: state_of(ticker.pid) == "T")
    assert ticker.is_still()
    os.kill(ticker.pid, signal.SIGCONT)
    ticker.check_ticks()
    good("snapshot", str(ticker.pid), "-o", str(ticker.image))
    ticker.reap()
    good("restore", str(ticker.image), "--detach", "--stopped")
    wait_for("the stop", lambda: state_of(ticker.pid) == "T")
    assert ticker.is_still()
    os.kill(ticker.pid, signal.SIGCONT)
    ticker.check_ticks()


def test_check_names_what_is_missing_and_its_effect() -> None:
    features = json.loads(good("check", "--json").stdout)
    by_name = {feature["name"]: feature for feature in features}
    assert by_name["ptrace_seize"]["ok"] is True
    assert all(feature["effect"] and feature["remedy"] for feature in features)
    said = good("check").stdout
    for feature in features:
        assert re.search(rf"^{'yes' if feature['ok'] else 'NO '} {feature['name']}\b", said, re.M)
        if not feature["ok"]:
            assert f"without it: {feature['effect']}" in said


def test_the_python_api(ticker: Ticker, capfd: pytest.CaptureFixture[str]) -> None:
    """The same functions, typed, and silent."""
    steps: list[str] = []

    def report(what: str, done: int, total: int) -> None:
        if not done and not total:
            steps.append(what)

    result = ckpt.snapshot(ticker.pid, str(ticker.image), ckpt.Options(leave_running=True), report)
    assert (result.pid, result.threads) == (ticker.pid, len(WAITS))
    assert steps[-1] == "done"
    ticker.check_untouched()
    with ckpt.open_image(str(ticker.image)) as image:
        image.verify_pages()
        assert len(image.records) > 10
    with pytest.raises(ckpt.CkptError, match="cannot be restored here"):
        ckpt.restore(str(ticker.image))
    ckpt.snapshot(ticker.pid, str(ticker.image))
    ticker.reap()
    restored = ckpt.restore(str(ticker.image))
    assert restored.pid == ticker.pid
    ticker.check_ticks()
    end_process(ticker.pid)
    assert capfd.readouterr() == ("", "")


def test_a_second_snapshot_replaces_the_first_only_when_it_is_whole(ticker: Ticker) -> None:
    good("snapshot", str(ticker.pid), "--leave-running", "-o", str(ticker.image))
    first = ticker.image.read_bytes()
    refusal("snapshot", str(ticker.pid), "-o", str(ticker.image), "--deadline", "0.0001")
    assert ticker.image.read_bytes() == first
    good("snapshot", str(ticker.pid), "--leave-running", "-o", str(ticker.image))
    assert ticker.image.read_bytes() != first
    assert sorted(os.listdir(ticker.folder)) == ["counters", "image.ckpt", "ready"]

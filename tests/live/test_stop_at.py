"""`restore --stop-at`: half a process stands still, a debugger can look, nothing of it stays."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ckpt.debug.symbols import AddressSpace
from ckpt.objects.base import Records
from ckpt.objects.interrupted import final_regs
from ckpt.objects.task import ThreadRecord
from ckpt.restore import open_image
from tests.live.harness import Build, Case, Target
from tests.live.tickers import (
    TOOL,
    Ticker,
    end_process,
    process_exists,
    refusal,
    run_tool,
    started,
    tracers,
    wait_for,
)

Json = dict[str, Any]


@pytest.fixture(scope="module")
def ticker(build: Build) -> Iterator[Ticker]:
    """A ticker that is an image only."""
    with Ticker(build.binary("ticker")) as found:
        assert run_tool("snapshot", str(found.pid), "-o", str(found.image)).returncode == 0
        found.reap()
        yield found


class Member(NamedTuple):
    """A process that leads nothing, so it is restored as a member of the command's group."""

    pid: int
    image: Path


@pytest.fixture(scope="module")
def member(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Member:
    """An image of such a process, which is killed."""
    del build  # it makes us the one who adopts what is left to init
    image = tmp_path_factory.mktemp("member") / "image.ckpt"
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with started("sleep", "1000", **quiet) as proc:
        wait_for("sleep", lambda: read_state(proc.pid, proc.pid) == "S")
        assert run_tool("snapshot", str(proc.pid), "-o", str(image)).returncode == 0
    return Member(proc.pid, image)


@pytest.fixture(scope="module")
def steps(ticker: Ticker) -> list[Json]:
    """The plan as the dry run prints it."""
    done = run_tool("restore", str(ticker.image), "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    found: list[Json] = json.loads(done.stdout)["steps"]
    return found


@contextmanager
def stopped_at(ticker: Ticker, step: str, *options: str) -> Iterator[Json]:
    """Build the ticker up to before `step`; at the end it must be there still, and is killed."""
    done = run_tool("restore", str(ticker.image), "--stop-at", step, "--json", *options)
    assert done.returncode == 0, done.stderr
    try:
        said: Json = json.loads(done.stdout)
        assert said["pid"] == ticker.pid
        check_still(ticker.pid, said["tids"])
        yield said
        check_still(ticker.pid, said["tids"])
    finally:
        end_process(ticker.pid)
    assert not process_exists(ticker.pid)


def check_still(pid: int, tids: list[int]) -> None:
    """Every thread is stopped, and nobody traces it."""
    assert sorted(map(int, os.listdir(f"/proc/{pid}/task"))) == sorted(tids)
    assert {tid: read_state(pid, tid) for tid in tids} == dict.fromkeys(tids, "T")
    assert not tracers(pid)


def read_state(pid: int, tid: int) -> str:
    """Return the state's letter of a thread."""
    stat = Path(f"/proc/{pid}/task/{tid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


def gdb(pid: int, *commands: str) -> str:
    """Attach, give commands, detach; return what gdb said."""
    wanted = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", str(pid), *wanted],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "ptrace:" not in done.stderr, done.stderr
    return done.stdout


def number_of(steps: list[Json], name: str) -> int:
    """Return the number of the step of this name."""
    return next(int(step["number"]) for step in steps if step["name"] == name)


def last_of(steps: list[Json], executor: str) -> Json:
    """Return the last step of a kind, the commit not counted."""
    return [step for step in steps[1:-1] if step["executor"] == executor][-1]


def test_the_first_step_finds_a_seed_with_a_tape(ticker: Ticker, steps: list[Json]) -> None:
    with stopped_at(ticker, "1") as said:
        assert said["next"] == {key: steps[1][key] for key in said["next"]}
        assert (said["tids"], said["steps"]) == ([ticker.pid], len(steps) - 1)
        maps = Path(f"/proc/{ticker.pid}/maps").read_text()
        assert maps.startswith("00010000-00011000 r-xp")
        assert not any(line.startswith("55") for line in maps.splitlines())
        text = gdb(ticker.pid, "info threads", "x/i $pc", "x/4xb 0x10000")
        assert re.search(r"^\* 1 .*process", text, re.M), text
        assert re.search(r"^=> 0x10[0-9a-f]{3}:", text, re.M), text


def test_memory_is_there_behind_its_step(ticker: Ticker, steps: list[Json]) -> None:
    """Stopped behind the reads, before the protections: a debugger sees the image's bytes."""
    number = number_of(steps, "read-pages") + 1
    with open_image(str(ticker.image)) as image:
        extents, _ = image.page_extents(next(iter(image.pages)))
        with AddressSpace(image, Records(image.records)) as space:
            wanted = {start: space.read(start, 16) for start in extents[0::2][:8]}
    with stopped_at(ticker, str(number)) as said:
        assert said["next"]["number"] == number
        text = gdb(ticker.pid, *(f"x/16xb {start}" for start in wanted))
    for start, content in wanted.items():
        lines = re.findall(rf"^0x{start:x}\b.*:((?:\s0x..)+)$", text, re.M)
        assert lines, (hex(start), text)
        assert bytes(int(word, 16) for word in lines[0].split()) == content[:8]


@pytest.mark.parametrize("executor", ["host", "tape", "ptrace"])
def test_each_kind_of_step(ticker: Ticker, steps: list[Json], executor: str) -> None:
    """Also in the middle of what is one tape otherwise."""
    step = last_of(steps, executor)
    with stopped_at(ticker, step["name"]) as said:
        assert said["next"]["number"] == step["number"]
        text = gdb(ticker.pid, "info threads", "p $_siginfo.si_signo", "info registers rip")
        assert len(re.findall(r"^[ *] \d+ ", text, re.M)) == len(said["tids"]), text


def test_before_and_behind_the_threads(ticker: Ticker, steps: list[Json]) -> None:
    number = number_of(steps, "create-threads")
    with stopped_at(ticker, "create-threads") as said:
        assert said["tids"] == [ticker.pid]
    with stopped_at(ticker, str(number + 1)) as said:
        assert sorted(said["tids"]) == ticker.shape.tids


def test_the_commit_finds_the_whole_process(ticker: Ticker) -> None:
    """Registers of every thread are the program's own; --verify has compared it."""
    with open_image(str(ticker.image)) as image:
        threads = [record for record in image.records if isinstance(record, ThreadRecord)]
    wanted = {thread.tid: final_regs(thread.interrupted, thread.regs) for thread in threads}
    with stopped_at(ticker, "commit", "--verify") as said:
        assert said["next"]["name"] == "commit"
        assert set(said["tids"]) == set(wanted)
        text = gdb(ticker.pid, "thread apply all -q p/x $rip", "thread apply all -q p/x $rsp")
        shown = {int(value, 16) for value in re.findall(r" = (0x[0-9a-f]+)$", text, re.M)}
        assert {regs.rip for regs in wanted.values()} <= shown
        assert {regs.rsp for regs in wanted.values()} <= shown
        assert Path(f"/proc/{ticker.pid}/exe").resolve().name == "ticker"


def test_what_it_prints(ticker: Ticker, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    command = ("restore", str(ticker.image), "--stop-at", "create-threads", "--pidfile")
    try:
        done = run_tool(*command, str(pidfile))
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == f"process {ticker.pid} is half built, from {ticker.image}, and stopped"
        assert re.fullmatch(
            rf"next: step \d+ of \d+, create-threads \(tape, tid {ticker.pid}\): create threads",
            lines[1],
        )
        assert lines[2:5] == [
            f"threads: {ticker.pid}",
            f"look: gdb -p {ticker.pid}",
            f"end it: kill -9 {ticker.pid}",
        ]
        assert pidfile.read_text() == f"{ticker.pid}\n"
    finally:
        end_process(ticker.pid)


@pytest.mark.parametrize("how", ["--stop-at commit", "--stop-at 1", "--detach --stopped"])
def test_a_shell_with_job_control_does_not_wake_it(member: Member, how: str) -> None:
    """SIGHUP and SIGCONT go to a stopped group that loses its last connection to the session."""
    tool = shlex.join([*TOOL, "restore", str(member.image), *how.split()])
    try:
        done = subprocess.run(
            ["bash", "-c", f"set -m; {tool}; true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )
        assert done.returncode == 0, done.stderr
        wait_for("a stopped process", lambda: read_state(member.pid, member.pid) == "T")
        check_still(member.pid, [member.pid])
        pending = Path(f"/proc/{member.pid}/status").read_text()
        assert re.search(r"^ShdPnd:\s+0{16}$", pending, re.M), pending
    finally:
        end_process(member.pid)


@pytest.mark.parametrize("program", ["pdeath_signal", "leader_exited", "seccomp_strict"])
def test_what_asks_for_more(program: str, build: Build) -> None:
    """A parent whose end it is told of, a main thread that has ended, calls that are forbidden."""
    with Target(Case(program), build) as target:
        target.start()
        assert target.wait_ready()
        target.snapshot()
        done = run_tool("restore", str(target.image), "--stop-at", "commit")
        try:
            assert done.returncode == 0, done.stderr
            tids = list(map(int, re.findall(r"\d+", done.stdout.splitlines()[2])))
            assert {read_state(target.pid, tid) for tid in tids} == {"T"}
            assert not tracers(target.pid)
            looks = re.findall(r"gdb -p (\d+)", done.stdout)
            assert looks == [str(tid) for tid in ([target.pid] if target.pid in tids else tids)]
            for tid in map(int, looks):
                assert f"(LWP {tid})" in gdb(tid, "info threads", "backtrace")
        finally:
            end_process(target.pid)


DYING = """
import os, signal, sys
from ckpt import cli
from ckpt.host import standstill

name, at, *arguments = sys.argv[1:]
calls, real = 0, getattr(standstill.ptrace, name)


def call(*args):
    global calls
    calls += 1
    if calls == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)


def leave(tgid, tids):
    setattr(standstill.ptrace, name, call)
    return real_leave(tgid, tids)


real_leave, standstill.leave_standing = standstill.leave_standing, leave
sys.exit(cli.main(arguments))
"""
"""The tool, ended by SIGKILL before call number `at` of a function while it lets go."""


def settle(pid: int) -> str:
    """Wait until it is clear what a killed tool has left: `nothing`, or `stopped` as a whole."""
    deadline, states = time.monotonic() + 10, set[str]()
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return "nothing"
            states = {read_state(pid, int(tid)) for tid in os.listdir(f"/proc/{pid}/task")}
            if states == {"T"} and not tracers(pid):
                return "stopped"
        except (FileNotFoundError, ProcessLookupError):
            pass  # A thread that is just ending.
        time.sleep(0.005)
    raise AssertionError(f"half let go: {states}")


@pytest.mark.parametrize(
    ("name", "at", "left"),
    [
        ("set_options", 1, "nothing"),
        ("set_options", 5, "nothing"),
        ("detach", 1, "stopped"),
        ("detach", 2, "stopped"),
        ("detach", 5, "stopped"),
    ],
)
def test_the_tool_is_killed_while_it_lets_go(ticker: Ticker, name: str, at: int, left: str) -> None:
    """All of the process is stopped, or there is none: never a thread that runs."""
    arguments = ["restore", str(ticker.image), "--stop-at", "commit"]
    command = [sys.executable, "-c", DYING, name, str(at), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    try:
        assert settle(ticker.pid) == left
    finally:
        end_process(ticker.pid)


def test_a_step_that_is_none(ticker: Ticker, steps: list[Json]) -> None:
    said = refusal("restore", str(ticker.image), "--stop-at", "create-thread")
    assert "no step 'create-thread' in the plan of this image" in said
    assert "did you mean create-threads" in said
    for text in ("0", str(len(steps)), "99999999999999999999", "\x1b[2J", ""):
        said = refusal("restore", str(ticker.image), "--stop-at", text)
        assert "no step" in said
        assert "\x1b" not in said
    said = refusal("restore", str(ticker.image), "--stop-at", "load-registers")
    assert f"load-registers@{ticker.pid}" in said
    said = refusal("restore", str(ticker.image), "--stop-at", "1", "--verify")
    assert "only a whole process can be compared" in said
    done = run_tool("restore", str(ticker.image), "--stop-at", "1", "--dry-run")
    assert done.returncode == 2
    assert not process_exists(ticker.pid)


def test_damaged_pages_leave_nothing(ticker: Ticker, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ckpt"
    content = bytearray(ticker.image.read_bytes())
    with open_image(str(ticker.image)) as image:
        item = next(iter(image.pages.values()))
        content[item.file_offset + item.length_bytes // 2] ^= 1
    broken.write_bytes(content)
    broken.chmod(0o600)
    assert "checksum" in refusal("restore", str(broken), "--stop-at", "create-threads")
    # It was a child of init, which is us here: killed, and left for us to reap.
    assert os.waitstatus_to_exitcode(os.waitpid(ticker.pid, 0)[1]) == -signal.SIGKILL


def test_an_ordinary_restore_comes_after_it(ticker: Ticker, steps: list[Json]) -> None:
    with stopped_at(ticker, last_of(steps, "ptrace")["name"]):
        pass
    done = run_tool("restore", str(ticker.image), "--detach")
    assert done.returncode == 0, done.stderr
    ticker.check_untouched()
    os.kill(ticker.pid, signal.SIGKILL)
    os.waitpid(ticker.pid, 0)

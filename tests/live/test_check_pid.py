"""`ckpt-bpf check PID`: everything that stands in the way at once, and nothing is stopped."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ckpt.debug.estimate import Machine, build_estimate
from ckpt.debug.feasibility import assess
from ckpt.debug.text import escape
from ckpt.host import ptrace
from ckpt.restore import open_image
from tests.live.harness import NOBODY, TOOL, Build, Case, Mode, Target, wait_until
from tests.live.test_refusals import REFUSED

LISTENER = "listener"
"""Whether a filter asks a listener, only a stopped thread shows."""
UNSTOPPED = (
    ("blocked_futex", "wait_forever"),
    ("blocked_poll", "epoll_wait_forever"),
    ("blocked_signal", "sigwaitinfo"),
    ("blocked_read", "pipe"),
)


def check(pid: int, *options: str, by: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run the command, which must not fail in a way of its own."""
    command = [*by, *TOOL, "check", str(pid), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")
    assert "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
    return done


def check_json(pid: int, *options: str, code: int) -> dict[str, Any]:
    """Run the command with --json."""
    done = check(pid, "--json", *options)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["possible"] is (code == 0)
    return found


@contextmanager
def running(case: Case, build: Build) -> Iterator[Target]:
    """Start a program, or skip; it must find itself unharmed at the end."""
    with Target(case, build) as target:
        target.start()
        if not target.wait_ready():
            outcome = target.wait_result()
            assert outcome.verdict == "SKIP", outcome.text
            pytest.skip(outcome.text)
        yield target
        target.go(Mode.LEFT_RUNNING)
        outcome = target.wait_result()
        assert outcome.verdict == "PASS", outcome.text


def blockers(found: dict[str, Any]) -> list[str]:
    return [f"{f['where']}: {f['what']}" for f in found["findings"] if f["blocker"]]


def warnings(found: dict[str, Any]) -> list[str]:
    return [f"{f['where']}: {f['what']}" for f in found["findings"] if not f["blocker"]]


@pytest.mark.parametrize("name", [name for name in REFUSED if name != LISTENER])
def test_it_finds_what_a_snapshot_refuses(build: Build, name: str) -> None:
    """Each line of the snapshot's refusal is among the blockers, each with a remedy."""
    with running(Case("refused_ties", (name,)), build) as target:
        found = check_json(target.pid, code=1)
        snapshot = subprocess.run(
            [*TOOL, "snapshot", str(target.pid), "-o", str(target.image), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert snapshot.returncode == 1
        refused = json.loads(snapshot.stdout)["findings"]
        said = blockers(found)
        assert any(REFUSED[name] in text for text in said)
        assert all(finding["hint"] for finding in found["findings"] if finding["blocker"])
        for finding in refused:
            address = finding["where"].rpartition(" area ")[2] if "area" in finding["where"] else ""
            wanted = address or f"{finding['where']}: {finding['what']}"
            assert any(wanted in text for text in said), said


def test_filters_are_named_as_not_seen(build: Build) -> None:
    with running(Case("refused_ties", (LISTENER,)), build) as target:
        found = check_json(target.pid, code=0)
    assert any("seccomp filters" in text for text in found["unseen"])


def test_everything_at_once(build: Build) -> None:
    """Descriptors, addresses and pids are those that the program knows; the terminal is safe."""
    with running(Case("check_many"), build) as target:
        text = (target.folder / "numbers").read_text().split()
        watch, sock, segment, gone, child = text
        found = check_json(target.pid, code=1)
        done = check(target.pid)
        quiet = check(target.pid, "--no-bpf")
    said, warned = blockers(found), warnings(found)
    for start, part in (
        (f"process {target.pid} fd {watch}: ", "inotify"),
        (f"process {target.pid} fd {sock}: ", "AF_INET stream"),
        (f"area 0x{segment}: ", "System V shared memory"),
        (f"tid {target.pid}: ", f"has a child: {child} "),
    ):
        assert any(line.startswith(start) and part in line for line in said), (start, said)
    assert sum(segment in line for line in said) == 1
    assert any(line.startswith(f"area 0x{gone}: mapped file ") for line in warned)
    assert any("RLIMIT_CPU" in line for line in warned)
    assert done.returncode == 1
    for line in (*said, *warned):
        assert escape(line) in done.stdout
    assert "cannot be snapshotted" in done.stdout
    assert r"\x1b[2Jevil" in done.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    assert quiet.returncode == 1
    assert all(escape(line) in quiet.stdout for line in said)


@pytest.mark.parametrize(("program", "case"), UNSTOPPED)
def test_nothing_is_stopped(build: Build, program: str, case: str) -> None:
    """A blocked call goes on, also one that any stop would end with EINTR; nobody is switched."""
    with running(Case(program, (case,)), build) as target:
        before = _switches(target.pid)
        for _ in range(2):
            found = assess(target.pid)
            assert found.possible and found.source == "bpf"
        after = _switches(target.pid)
    # A stop would be two switches of each sleeper; the main thread, which polls, has made its own.
    sleepers = set(before) - {target.pid}
    assert all(before[tid] == after[tid] for tid in sleepers)


def _switches(pid: int) -> dict[int, str]:
    """Return, by thread, how often it gave up a CPU and how often it had to."""
    found = {}
    for tid in map(int, os.listdir(f"/proc/{pid}/task")):
        try:
            text = Path(f"/proc/{pid}/task/{tid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[tid] = "".join(line for line in text.splitlines() if "ctxt_switches" in line)
    return found


SIZES = (("many_threads", ()), ("mem_anon", ()), ("many_fds", ()))


@pytest.mark.parametrize(("program", "args"), SIZES)
def test_the_estimate_is_near_a_snapshot(build: Build, program: str, args: tuple[str, ...]) -> None:
    """The size within a factor of 1.5; the frozen time within one of 4, if nothing is in the way.

    What else runs here now makes a snapshot longer, or the estimate: one pair of some has to fit.
    """
    with running(Case(program, args), build) as target:
        pairs = []
        for _ in range(6):
            estimate = check_json(target.pid, code=0)["estimate"]
            target.snapshot("--leave-running")
            with open_image(str(target.image)) as image:
                size, timings = image.status.st_size, image.timings
            assert timings is not None
            frozen_s = sum(phase.ns for phase in timings.frozen if not phase.inside) / 1e9
            assert size / 1.5 < estimate["image_bytes"] < size * 1.5
            pairs.append((estimate["frozen_s"], frozen_s))
            if frozen_s / 4 < estimate["frozen_s"] < frozen_s * 4:
                return
    pytest.fail(f"(estimated, measured): {pairs}")


def test_the_model_orders() -> None:
    """More of anything is larger and takes longer; a slower machine takes longer."""
    machine = Machine(1.0, 0.4)
    base = build_estimate((1, 20, 3), 1 << 20, 0, machine)
    for more in (
        build_estimate((100, 20, 3), 1 << 20, 0, machine),
        build_estimate((1, 2000, 3), 1 << 20, 0, machine),
        build_estimate((1, 20, 3000), 1 << 20, 0, machine),
        build_estimate((1, 20, 3), 1 << 28, 0, machine),
        build_estimate((1, 20, 3), 1 << 20, 1 << 28, machine),
    ):
        assert more.image_bytes > base.image_bytes
        assert more.frozen_s > base.frozen_s
    slow = build_estimate((1, 20, 3), 1 << 20, 0, Machine(2.0, 0.8))
    assert slow.image_bytes == base.image_bytes
    assert slow.frozen_s == pytest.approx(2 * base.frozen_s)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing special."""
    with subprocess.Popen(
        ["sleep", "60"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, close_fds=True
    ) as process:
        yield process
        process.kill()


def test_a_plain_process_is_possible(sleeper: subprocess.Popen[bytes]) -> None:
    done = check(sleeper.pid)
    assert done.returncode == 0, done.stdout
    assert "can be snapshotted and restored here" in done.stdout
    assert "an image of about" in done.stdout


def test_a_traced_process(sleeper: subprocess.Popen[bytes]) -> None:
    ptrace.seize(sleeper.pid)
    found = check_json(sleeper.pid, code=1)
    assert [text for text in blockers(found) if "is traced by process" in text]
    assert found["estimate"]["threads"] == 1


def test_a_zombie(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    (text,) = blockers(check_json(sleeper.pid, code=1))
    assert "a zombie" in text


def test_a_process_that_changes_and_ends_while_it_is_looked_at(build: Build) -> None:
    """Descriptors come and go, then the process itself does: no check fails in a strange way."""
    with Target(Case("fd_churn"), build) as target:
        target.start()
        target.wait_ready()
        seen = set()
        for delay in (0.0, 0.05, 0.1, 0.15):
            if delay:
                tool = subprocess.Popen(
                    [*TOOL, "check", str(target.pid)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                time.sleep(delay)
                if delay == 0.15:
                    target.end()
                _, err = tool.communicate(timeout=60)
                assert "internal error" not in err
                seen.add(tool.returncode)
            else:
                seen.add(check(target.pid).returncode)
    assert seen <= {0, 1}
    gone = check(target.pid)
    assert gone.returncode == 1
    assert "no such process" in gone.stderr


def test_what_is_no_process() -> None:
    assert blockers(check_json(2, code=1)) == ["pid 2: is a kernel thread"]
    asked = threading.Event()
    tids: queue.Queue[int] = queue.Queue()

    def wait() -> None:
        tids.put(threading.get_native_id())
        asked.wait(60)

    with ThreadPoolExecutor() as pool:
        pool.submit(wait)
        tid = tids.get(timeout=10)
        said = blockers(check_json(tid, code=1))
        asked.set()
    assert said == [f"pid {tid}: is a thread of process {os.getpid()}"]
    wrong = subprocess.run([*TOOL, "check", "0"], capture_output=True, text=True)
    assert wrong.returncode == 2


def test_without_privileges(sleeper: subprocess.Popen[bytes]) -> None:
    """What may be seen is said, the rest is named; exit 1, because this user cannot do it."""
    done = check(sleeper.pid, by=NOBODY)
    assert done.returncode == 1
    assert "only root can snapshot and restore" in done.stdout
    assert "not seen: areas: Permission denied" in done.stdout
    assert "belongs to uid 0" in done.stdout


def test_stopped_processes_stay_stopped(sleeper: subprocess.Popen[bytes]) -> None:
    sleeper.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED)
    check_json(sleeper.pid, code=0)
    state = Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[0]
    assert state == "T"


def test_what_this_machine_has_not(sleeper: subprocess.Popen[bytes]) -> None:
    """Limits below the process's, without the capability to raise them; cgroups are the same."""
    limited = ["prlimit", "--nofile=200:200", "setpriv", "--bounding-set=-sys_resource,-setpcap"]
    done = subprocess.run(
        [*limited, *TOOL, "check", str(sleeper.pid), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
    )
    found = json.loads(done.stdout)
    warned = warnings(found)
    assert any("RLIMIT_NOFILE: hard limit" in text and "200 instead" in text for text in warned)
    assert any("the bounding set becomes smaller" in text for text in warned)
    assert not any("cgroup" in text for text in (*warned, *blockers(found)))


def test_a_program_that_is_gone(build: Build) -> None:
    """Its file is a part of the image, and of the estimate."""
    with running(Case("exe_deleted"), build) as target:
        found = check_json(target.pid, code=0)
        target.snapshot("--leave-running")
        with open_image(str(target.image)) as image:
            size = image.status.st_size
    assert any("is not at that path any more" in text for text in warnings(found))
    assert found["estimate"]["contents_bytes"] > 0
    assert size / 1.5 < found["estimate"]["image_bytes"] < size * 1.5


def test_memory_that_another_process_uses(build: Build, tmp_path: Path) -> None:
    """A parent in vfork and its child: a snapshot waits for one, and parts their memory."""
    with subprocess.Popen(
        [str(build.binary("vfork_parent")), str(tmp_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as parent:
        wait_until("the child", lambda: (tmp_path / "ready").exists(), 20.0)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        try:
            found = check_json(parent.pid, code=1)
        finally:
            os.kill(int(children[0]), signal.SIGKILL)
            parent.kill()
    assert any("waits in vfork until its child" in text for text in blockers(found))
    assert any("its memory has 2 users" in text for text in warnings(found))

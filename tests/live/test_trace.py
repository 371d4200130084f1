"""`trace`: every kind of event against what a program says that it did, and what is not traced."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ckpt.host.bpf_trace import KINDS, Trace, TraceOptions
from tests.live.harness import NOBODY, TOOL, Build

Events = list[dict[str, Any]]
RAISED = 120_000
"""Signals whose events are more than the ring holds."""


class Traced(NamedTuple):
    """One run of trace_all under the tool."""

    status: int
    said: dict[str, int]
    events: Events
    summary: dict[str, Any]
    text: list[str]


def said_by(output: str) -> dict[str, int]:
    """Return what the program said that it did."""
    return {name: int(value) for name, value in (line.split() for line in output.splitlines())}


def run_traced(program: Path, folder: Path, *options: str) -> tuple[int, str, str]:
    """Trace a whole run; return exit status, the program's output and the trace."""
    out = folder / "trace"
    command = [*TOOL, "trace", "-o", str(out), *options, "--", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout, out.read_text()


@pytest.fixture(scope="module")
def traced(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    program, folder = build.binary("trace_all"), tmp_path_factory.mktemp("trace")
    options = ["--children", "--slow", "0.2"]
    status, output, trace = run_traced(program, folder, "--json", *options)
    *events, summary = [json.loads(line) for line in trace.splitlines()]
    _, _, text = run_traced(program, folder, *options)
    return Traced(status, said_by(output), events, summary, text.splitlines())


def find(traced: Traced, event: str, **fields: Any) -> dict[str, Any]:
    """Return the one event of that kind with these fields."""
    found = [
        item
        for item in traced.events
        if item["event"] == event and all(item[key] == value for key, value in fields.items())
    ]
    assert len(found) == 1, (event, fields, found)
    return found[0]


def test_the_command_is_traced_from_its_beginning_to_its_end(traced: Traced) -> None:
    first, last = traced.events[0], traced.events[-1]
    pid = traced.said["pid"]
    assert traced.status == -signal.SIGTERM
    assert first["event"] == "exec" and first["tid"] == pid and first["path"].endswith("trace_all")
    assert (last["event"], last["signal"], last["status"]) == ("exit", "SIGTERM", None)
    assert last["is_last"] and last["tid"] == pid
    assert find(traced, "exec", path="/proc/self/exe")["tid"] == pid
    times = [item["time_ns"] for item in traced.events]
    assert all(after - before > -50_000_000 for before, after in itertools.pairwise(times))


def test_lives(traced: Traced) -> None:
    said, pid = traced.said, traced.said["pid"]
    assert find(traced, "fork", child_tid=said["child"])["child_tgid"] == said["child"]
    assert find(traced, "fork", child_tid=said["owner"])["child_tgid"] == pid
    ended = find(traced, "exit", tid=said["child"])
    assert (ended["status"], ended["signal"], ended["is_last"]) == (7, None, True)
    assert not find(traced, "exit", tid=said["owner"])["is_last"]


def test_robust_lock_of_an_ending_thread(traced: Traced) -> None:
    found = find(traced, "robust")
    assert (found["tid"], found["futex"]) == (traced.said["owner"], traced.said["robust"])
    assert found["place"] == "trace_all robust" and found["has_waiters"] and not found["problem"]
    assert found["word"] & 0x3FFFFFFF == traced.said["owner"]
    assert found["comm"] == "dying\\x1b[2J"


def test_signals_with_their_senders(traced: Traced) -> None:
    said, pid = traced.said, traced.said["pid"]
    own = find(traced, "signal", signal="SIGUSR1")
    assert own["code"] == "SI_TKILL" and own["sender"]["tid"] == pid
    assert own["action"] == f"{said['handler']:#x} (trace_all handler)"
    assert own["flags"] == "SA_ONSTACK"
    stop = find(traced, "signal", signal="SIGSTOP")
    assert (stop["sender"]["tgid"], stop["code"]) == (said["stopper"], "SI_USER")
    assert stop["to_process"] and 0 <= stop["waited_ns"] < 1_000_000_000
    timer = find(traced, "signal", signal="SIGALRM")
    assert (timer["sender"], timer["code"]) == (None, "SI_KERNEL")
    assert timer["source"] == "the timer of setitimer or alarm"
    alternate = find(traced, "altstack")
    assert (alternate["stack"], alternate["was_on_it"]) == (said["stack"], False)


def test_interrupted_calls(traced: Traced) -> None:
    read = find(traced, "eintr")
    assert read["signal"] == "SIGALRM" and read["call"].startswith(f"read({traced.said['pipe']}<")
    armed = find(traced, "armed")
    assert armed["call"] == "poll(NULL, 0, 400 ms)" and armed["function"] == "do_restart_poll"
    assert 100_000_000 < armed["left_ns"] < 350_000_000
    entered = find(traced, "restart")
    assert entered["function"] == "do_restart_poll" and entered["left_ns"] < armed["left_ns"]
    assert find(traced, "restart_result")["result"] == 0


def test_slow_futex_waits_and_no_quick_ones(traced: Traced) -> None:
    slow = [e for e in traced.events if e["event"] == "futex" and e["tid"] == traced.said["pid"]]
    own = [e for e in slow if e["futex"] == traced.said["futex"]]
    ended = [e for e in own if e["result"] is not None]
    assert len(ended) == 1 and ended[0]["meaning"] == "ETIMEDOUT", slow
    assert ended[0]["lasted_ns"] >= 250_000_000 and ended[0]["place"] == "trace_all word"
    assert all(e["lasted_ns"] >= 200_000_000 for e in slow)


def test_summary_and_text(traced: Traced) -> None:
    counted: dict[str, int] = {}
    for event in traced.events:
        name = "restart" if event["event"] == "restart_result" else str(event["event"])
        counted[name] = counted.get(name, 0) + 1
    assert (traced.summary["event"], traced.summary["lost"]) == ("summary", 0)
    assert traced.summary["events"] == counted
    text = "\n".join(traced.text)
    assert "\x1b" not in text and "dying\\x1b[2J" in text
    assert ": will be FUTEX_OWNER_DIED, has waiters" in text
    assert "= -EINTR, by the handler of SIGALRM" in text
    assert "poll(NULL, 0, 400 ms) = -ERESTART_RESTARTBLOCK: do_restart_poll(" in text
    assert "killed by SIGTERM, the last thread of process" in text


class Target:
    """trace_all doing one thing, told so through its standard input."""

    def __init__(self, program: Path, *args: str) -> None:
        self.process = subprocess.Popen(
            [str(program), *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        assert self.read() == ("ready", self.pid)

    def read(self) -> tuple[str, int]:
        assert self.process.stdout is not None
        name, value = self.process.stdout.readline().split()
        return name, int(value)

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def targets() -> Iterator[list[Target]]:
    started: list[Target] = []
    yield started
    for target in started:
        target.end()


def start_tool(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*TOOL, "trace", *args], stdout=subprocess.PIPE, text=True)


def wait_until_attached(tool: subprocess.Popen[str]) -> None:
    """Wait until the tool holds links of BPF programs: from then on nothing is missed."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        links = []
        for entry in os.scandir(f"/proc/{tool.pid}/fd"):
            try:
                links.append("bpf_link" in os.readlink(entry.path))
            except FileNotFoundError:
                continue
        if sum(links) >= 5:
            time.sleep(0.1)
            return
        assert tool.poll() is None
        time.sleep(0.02)
    pytest.fail("the tool does not attach")


def test_numbers_are_those_of_our_own_pid_namespace() -> None:
    inside = [*TOOL, "trace", "--json", "--", "sh", "-c", "true; exit 4"]
    command = ["unshare", "--pid", "--fork", "--mount-proc", *inside]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4, done.stderr
    *events, _ = [json.loads(line) for line in done.stdout.splitlines()]
    started = [event for event in events if event["event"] == "exec"]
    assert len(started) == 1 and started[0]["old_tid"] == started[0]["tid"] < 100
    assert {event["tgid"] for event in events} == {started[0]["tid"]}


def test_a_thread_that_executes_a_program_becomes_the_main_one() -> None:
    script = (
        "import os, threading; run = ('/bin/true', ['true']);"
        "threading.Thread(target=os.execv, args=run).start(); threading.Event().wait()"
    )
    done = subprocess.run(
        [*TOOL, "trace", "--json", "--", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    made = next(event for event in events if event["event"] == "fork")
    last = [event for event in events if event["event"] == "exec"][-1]
    assert (last["path"], last["old_tid"]) == ("/bin/true", made["child_tid"])
    assert last["tid"] == last["tgid"] == made["tgid"]


@pytest.mark.parametrize("children", [True, False])
def test_a_running_process_is_traced_until_it_ends(
    build: Build, targets: list[Target], children: bool
) -> None:
    target = Target(build.binary("trace_all"), "parent")
    targets.append(target)
    tool = start_tool(str(target.pid), "--json", *(["--children"] if children else []))
    wait_until_attached(tool)
    target.go()
    name, grandchild = target.read()
    target.process.wait(10)
    output, _ = tool.communicate(timeout=20)
    events = [json.loads(line) for line in output.splitlines()]
    assert (tool.returncode, name) == (0, "grandchild")
    tids = {event["tid"] for event in events if "tid" in event}
    assert (grandchild in tids) is children
    assert tids == {target.pid} if not children else len(tids) == 3
    ends = {e["tid"]: e["status"] for e in events if e["event"] == "exit"}
    assert ends[target.pid] == 0 and (not children or ends[grandchild] == 3)


def test_ctrl_c_ends_with_a_summary_and_harms_nothing(build: Build, targets: list[Target]) -> None:
    target = Target(build.binary("trace_all"), "wait")
    targets.append(target)
    _, futex = target.read()
    tool = start_tool(str(target.pid), "--slow", "0.1")
    wait_until_attached(tool)
    time.sleep(0.6)
    tool.send_signal(signal.SIGINT)
    output, _ = tool.communicate(timeout=20)
    assert tool.returncode == 0
    lines = output.splitlines()
    assert f"futex {futex:#x} (trace_all word) FUTEX_WAIT: waits for" in lines[0], output
    assert "or longer by now" in lines[0]
    assert any(line.startswith("1 events in ") and line.endswith(" 0 lost") for line in lines)
    assert target.process.poll() is None


def test_only_the_events_that_were_asked_for_are_attached(build: Build, tmp_path: Path) -> None:
    program = build.binary("trace_all")
    _, output, trace = run_traced(program, tmp_path, "--json", "--events", "exit,fork")
    *events, summary = [json.loads(line) for line in trace.splitlines()]
    assert {event["event"] for event in events} == {"fork", "exit"}
    assert {event["tgid"] for event in events} == {said_by(output)["pid"]}
    assert set(summary["events"]) == {"fork", "exit"}


def test_lost_events_are_counted(build: Build, targets: list[Target]) -> None:
    """What does not fit while nobody reads: events read and events lost are all there were."""
    target = Target(build.binary("trace_all"), "signals", str(RAISED))
    targets.append(target)
    with Trace(target.pid, TraceOptions(kinds=("signal",))) as trace:
        target.go()
        assert target.read() == ("raised", RAISED)
        lost = trace.lost
        kept = sum(1 for _ in trace.read())
    assert lost > 0 and kept > 0
    assert lost + kept == RAISED


def test_lost_events_are_shown(build: Build, targets: list[Target]) -> None:
    target = Target(build.binary("trace_all"), "signals", str(RAISED))
    targets.append(target)
    tool = start_tool(str(target.pid), "--events", "signal")
    wait_for = time.monotonic() + 1
    wait_until_few_links(tool, wait_for)
    os.kill(tool.pid, signal.SIGSTOP)
    target.go()
    assert target.read() == ("raised", RAISED)
    os.kill(tool.pid, signal.SIGCONT)
    output, _ = tool.communicate(timeout=60)
    shown = [line for line in output.splitlines() if " events were lost: " in line]
    assert len(shown) == 1
    assert output.count(" signal ") + int(shown[0].split()[1]) >= RAISED


def wait_until_few_links(tool: subprocess.Popen[str], not_before: float) -> None:
    """Wait until the two programs that `signal` needs are attached."""
    while time.monotonic() < not_before + 20:
        links = [entry.path for entry in os.scandir(f"/proc/{tool.pid}/fd")]
        named = [path for path in links if os.path.islink(path)]
        try:
            attached = sum("bpf_link" in os.readlink(path) for path in named)
        except FileNotFoundError:
            continue
        if attached >= 2 and time.monotonic() > not_before:
            return
        time.sleep(0.05)
    pytest.fail("the tool does not attach")


WRONG = {
    ("999999999",): (1, "no such process"),
    ("--events", "fork,nonsense", "1"): (2, "nonsense: not among fork, exec"),
    ("--", "/nonexistent/program"): (1, "/nonexistent/program: cannot be executed"),
    ("-o", "/nonexistent/file", "1"): (1, "cannot be written"),
    ("--perfetto", "/nonexistent/file", "--", "true"): (1, "/nonexistent/file"),
    (): (2, "required"),
}


@pytest.mark.parametrize("args", WRONG, ids=" ".join)
def test_wrong_use(args: tuple[str, ...]) -> None:
    code, message = WRONG[args]
    done = subprocess.run([*TOOL, "trace", *args], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr and "Traceback" not in done.stderr


def test_a_thread_is_no_process() -> None:
    import threading

    gate = threading.Event()
    thread = threading.Thread(target=gate.wait)
    thread.start()
    try:
        command = [*TOOL, "trace", str(thread.native_id)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    finally:
        gate.set()
        thread.join()
    assert done.returncode == 1
    assert f"is a thread of process {os.getpid()}" in done.stderr
    assert f"ckpt-bpf trace {os.getpid()}" in done.stderr


def test_without_privilege_nothing_is_run(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    tmp_path.chmod(0o777)
    done = subprocess.run(
        [*NOBODY, *TOOL, "trace", "--", "touch", str(witness)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1 and not witness.exists()
    assert "no privilege to use BPF" in done.stderr and "run as root" in done.stderr


def test_every_kind_is_in_the_help() -> None:
    done = subprocess.run([*TOOL, "trace", "--help"], capture_output=True, text=True, timeout=30)
    assert all(name in done.stdout for name in KINDS)

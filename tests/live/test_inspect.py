"""`inspect`: what it says of threads and processes in every state, against second sources."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ckpt.debug.inspect import Inspector
from ckpt.debug.inspect_text import inspection_lines
from ckpt.debug.inspect_types import Inspection, ThreadReport, TreeNode
from ckpt.errors import CaptureError
from ckpt.objects.siginfo import name_of, signals_in
from tests.live.harness import Build
from tests.live.inspect_target import States, running_states
from tests.live.kernel_state import get_robust_list, parse_status

SECOND = 1_000_000_000
CLOCK_TOLERANCE_NS = 30_000_000
"""Between two readings on a busy machine: the time of a look, and a tick of the scheduler."""
LONG_NS = 1000 * SECOND
CALLS = {
    "poll": r"poll\(\[\{{pipe}<pipe:\[\d+\]>, POLLPRI\}, \{{unix}<unix stream .*>, POLLIN\}, "
    r"\{-1, POLLOUT\}\], 3, 1000000 ms\)",
    "select": r"pselect6\(\d+, \[{unix}<unix stream .*>\], NULL, NULL, NULL, NULL\)",
    "recv": r"recvfrom\({client}<TCP 127\.0\.0\.1:{cport} -> 127\.0\.0\.1:{lport}>, 0x[0-9a-f]+ "
    r"\(.*\), 1, MSG_PEEK, NULL, NULL\)",
    "accept": r"accept4\({listener}<TCP 127\.0\.0\.1:{lport} listening>, NULL, NULL, "
    r"SOCK_CLOEXEC\)",
    "epoll": r"epoll_wait\({epoll}<anon_inode:\[eventpoll\] watches \d+<unix stream .*>>, "
    r"0x[0-9a-f]+ \(.*\), 4, no limit\)",
    "semop": r"semtimedop\({semaphores}, \[\{semaphore 1, -3\}\], 1, NULL\)",
    "sigwait": r"rt_sigtimedwait\(\[SIGHUP SIGRTMIN\+5\], NULL, 1000 s, 8\)",
    "sigsuspend": r"rt_sigsuspend\(~\[SIGTERM SIGRTMIN\+0 SIGRTMIN\+1\], 8\)",
    "waitv": r"futex_waitv\(\[\{0x[0-9a-f]+ \(inspect_states word\), 0x0\}, \{0x[0-9a-f]+ "
    r"\(inspect_states idle_word\), 0x0\}\], 2, 0x0, NULL, CLOCK_REALTIME\)",
    "futex": r"futex\({word:#x} \(inspect_states word\), FUTEX_WAIT_PRIVATE, 0, 1000\.5 s\)",
    "robust_waiter": r"futex\({robust:#x} \(inspect_states robust_mutex\), FUTEX_WAIT, \d+, NULL\)",
    "pi_waiter": r"futex\({pi:#x} \(inspect_states pi_mutex\), FUTEX_LOCK_PI, 0, NULL\)",
    "deadlock_one": r"futex\({second:#x} \(inspect_states second_mutex\), FUTEX_WAIT_PRIVATE, 2, "
    r"NULL\)",
    "in_handler": r"pause\(\)",
    "robust_owner": r"read\({pipe}<pipe:\[\d+\]>, 0x[0-9a-f]+ \(.*\), 1\)",
}


@pytest.fixture(scope="module")
def inspector() -> Iterator[Inspector]:
    with Inspector() as opened:
        assert not opened.why_no_bpf
        yield opened


@pytest.fixture(scope="module")
def states(build: Build) -> Iterator[States]:
    with running_states(build) as running:
        yield running


@pytest.fixture(scope="module")
def look(inspector: Inspector, states: States) -> Inspection:
    return inspector.inspect(states.pid)


def blocked_threads(look: Inspection) -> Iterator[ThreadReport]:
    """Yield the threads of the first process that wait in a call."""
    return (thread for thread in look.processes[0].threads if thread.state == "S")


def test_threads_and_states_are_those_of_proc(look: Inspection, states: States) -> None:
    report = look.processes[0]
    assert look.source == "bpf" and not look.processes[0].gaps
    tids = sorted(int(name) for name in os.listdir(f"/proc/{states.pid}/task"))
    assert sorted(thread.tid for thread in report.threads) == tids
    for thread in report.threads:
        status = parse_status(states.pid, thread.tid)
        assert thread.state == status["State"][0]
        assert thread.comm == status["Name"]
        assert thread.pending == masked(status["SigPnd"])
        assert thread.masked == masked(status["SigBlk"])
    assert report.pending == masked(parse_status(states.pid, states.pid)["ShdPnd"])


def masked(word: str) -> tuple[str, ...]:
    """Return the signals of a mask of /proc/PID/status."""
    return tuple(map(name_of, signals_in(int(word, 16))))


def test_calls_and_registers_are_those_of_proc(look: Inspection, states: States) -> None:
    seen = 0
    for thread in blocked_threads(look):
        number, *args, sp, ip = states.call(thread.tid)
        assert thread.call is not None
        assert thread.call.nr == number
        values = [arg.value for arg in thread.call.args]
        assert values == args[: len(values)], thread.comm
        assert (thread.rsp, thread.rip) == (sp, ip)
        seen += 1
    assert seen >= len(states.threads)


@pytest.mark.parametrize("kind", CALLS)
def test_arguments_are_decoded(look: Inspection, states: States, kind: str) -> None:
    names = {
        "pipe": states.said["pipe"][0],
        "unix": states.said["unix"][0],
        "epoll": states.said["epoll"][0],
        "listener": states.said["listener"][0],
        "lport": states.said["listener"][1],
        "client": states.said["client"][0],
        "cport": states.said["client"][1],
        "semaphores": states.said["semaphores"][0],
    }
    pattern = CALLS[kind]
    for name, number in names.items():
        pattern = pattern.replace(f"{{{name}}}", str(number))
    for name, address in states.addresses.items():
        pattern = pattern.replace(f"{{{name}:#x}}", hex(address))
    call = states.thread(look, kind).call
    assert call is not None and re.fullmatch(pattern, call.text), call


def test_kernel_stacks_are_those_of_proc(look: Inspection, states: States) -> None:
    for thread in blocked_threads(look):
        lines = Path(f"/proc/{states.pid}/task/{thread.tid}/stack").read_text().splitlines()
        expected = [line.split()[-1].partition("/")[0] for line in lines]
        # The scheduler's own frames are left out in /proc.
        assert thread.kernel_stack is not None
        assert list(thread.kernel_stack[-len(expected) :]) == expected, thread.comm


def test_times_off_the_cpu_run_on(inspector: Inspector, states: States) -> None:
    first = inspector.inspect(states.pid)
    time.sleep(0.3)
    second = inspector.inspect(states.pid)
    later_ns = second.observed_ns - first.observed_ns
    before = {thread.tid: thread for thread in blocked_threads(first)}
    for thread in blocked_threads(second):
        old = before[thread.tid].blocked
        assert old is not None and thread.blocked is not None
        grown_ns = thread.blocked.since_ns - old.since_ns
        assert abs(grown_ns - later_ns) < CLOCK_TOLERANCE_NS
        assert thread.blocked.since_ns < second.observed_ns - states.started_ns + SECOND
    spin = states.thread(second, "spin")
    assert spin.state == "R" and spin.blocked is None


def test_deadlines_agree_with_the_time_off_the_cpu(look: Inspection, states: States) -> None:
    for kind, timeout_ns in (
        ("poll", LONG_NS),
        ("sigwait", LONG_NS),
        ("futex", LONG_NS + 5 * 10**8),
    ):
        thread = states.thread(look, kind)
        assert thread.deadline is not None and thread.blocked is not None
        begun_ns = timeout_ns - thread.deadline.left_ns
        assert abs(begun_ns - thread.blocked.since_ns) < CLOCK_TOLERANCE_NS
    assert states.thread(look, "epoll").deadline is None


def test_user_stacks_have_the_programs_functions(look: Inspection, states: States) -> None:
    wanted = {
        "robust_owner": ["block_for_ever", "robust_owner"],
        "robust_waiter": ["robust_waiter"],
        "in_handler": ["on_alternate_stack", "<signal handler called>", "in_handler"],
        "poll": ["in_poll"],
        "accept": ["in_accept"],
        "deadlock_two": ["lock_two"],
    }
    for kind, functions in wanted.items():
        places = [frame.place for frame in states.thread(look, kind).user_stack]
        own = [place for place in places if "inspect_states" in place or place.startswith("<")]
        names = [place.removeprefix("inspect_states ").partition("+")[0] for place in own]
        assert names[: len(functions)] == functions, places
        assert places[0].startswith("libc.so.6 ")


def test_instructions_and_build_ids(look: Inspection, states: States) -> None:
    library = next(
        line.split()[-1]
        for line in Path(f"/proc/{states.pid}/maps").read_text().splitlines()
        if "libc.so" in line
    )
    notes = subprocess.run(["readelf", "-n", library], capture_output=True, text=True, check=True)
    build_id = re.search(r"Build ID: (\w+)", notes.stdout)
    assert build_id is not None
    for thread in blocked_threads(look):
        at = [line.is_next for line in thread.instructions].index(True)
        assert thread.instructions[at].address == thread.rip
        assert thread.instructions[at - 1].text == "syscall"
        assert len(thread.instructions) == 7
        assert thread.build_id == build_id[1]


def test_robust_lists_with_owners_and_waiters(look: Inspection, states: States) -> None:
    owner = states.thread(look, "robust_owner")
    (robust,) = owner.robust_lists
    assert robust.head == get_robust_list(owner.tid) and not robust.problem
    words = {entry.futex.address: entry for entry in robust.entries}
    wanted = {"robust": "robust_waiter", "robust_second": "", "pi": "pi_waiter"}
    assert words.keys() == {states.addresses[name] for name in wanted}
    for name, waiter in wanted.items():
        entry = words[states.addresses[name]]
        assert entry.futex.owner_tid == owner.tid and entry.futex.owner == "robust_owner"
        assert entry.is_pi == (name == "pi")
        assert entry.futex.has_waiters == bool(waiter) and not entry.futex.owner_died
        assert [who.comm for who in entry.futex.waiters] == ([waiter] if waiter else [])
    waiting = states.thread(look, "robust_waiter")
    assert waiting.futex is not None and waiting.futex.owner_tid == owner.tid
    assert waiting.robust_lists[0].pending is not None
    assert waiting.robust_lists[0].pending.futex.address == states.addresses["robust"]


def test_a_robust_list_that_goes_in_circles(look: Inspection, states: States) -> None:
    thread = states.thread(look, "circular")
    (robust,) = thread.robust_lists
    first, second = states.said["locks"]
    assert "goes in circles" in robust.problem and hex(first) in robust.problem
    assert [entry.entry for entry in robust.entries] == [first]
    assert robust.entries[0].futex.owner_died and not robust.entries[0].futex.has_waiters
    pending = robust.pending
    assert pending is not None and pending.entry == second and pending.is_pi
    assert pending.futex.has_waiters and pending.futex.owner_tid == thread.tid


def test_deadlocks_and_who_waits_elsewhere(look: Inspection, states: States) -> None:
    one, two = states.threads["deadlock_one"], states.threads["deadlock_two"]
    assert look.processes[0].deadlocks == ((min(one, two), max(one, two)),)
    word = states.thread(look, "shared_futex").futex
    assert word is not None and word.address == states.addresses["shared"]
    waiters = {who.tid for who in word.waiters}
    assert waiters == {states.threads["shared_futex"], states.children["shares_futex"]}
    idle = states.thread(look, "futex").futex
    assert idle is not None and [who.comm for who in idle.waiters] == ["futex"]


def test_alternate_stack_mask_and_temporary_mask(look: Inspection, states: States) -> None:
    stack = states.thread(look, "in_handler").altstack
    assert stack is not None and stack.address == states.said["altstack"][0]
    assert stack.size == 32768 and stack.is_on
    assert states.thread(look, "poll").altstack is None
    suspended = states.thread(look, "sigsuspend")
    assert "SIGTERM" not in suspended.masked and "SIGINT" in suspended.masked


def test_what_the_threads_share(look: Inspection, states: States) -> None:
    report = look.processes[0]
    handlers = {one.signal: one for one in report.dispositions or ()}
    assert handlers["SIGUSR1"].place == "inspect_states on_alternate_stack"
    assert handlers["SIGUSR1"].flags == "SA_ONSTACK" and handlers["SIGUSR1"].mask == ("SIGQUIT",)
    assert handlers["SIGPIPE"].place == "ignored"
    timers = {timer.name: timer for timer in report.timers or ()}
    posix, alarm = timers["timer 0"], timers["ITIMER_REAL"]
    assert (posix.clock, posix.interval_ns) == ("CLOCK_BOOTTIME", 5 * SECOND)
    assert posix.notifies == "signal SIGUSR2"
    assert posix.left_ns is not None and 900 * SECOND < posix.left_ns < LONG_NS
    assert alarm.left_ns is not None and 1900 * SECOND < alarm.left_ns < 2 * LONG_NS
    limits = {limit.name: limit for limit in report.limits or ()}
    assert (limits["NOFILE"].soft, limits["NOFILE"].hard) == (123, 456)
    found = report.credentials
    status = parse_status(states.pid, states.pid)
    assert found is not None and list(found.uids) == [int(n) for n in status["Uid"].split()]
    sharing = {one.what: [who.comm for who in one.others] for one in report.sharing}
    files = ["shares_files"]
    assert sharing == {"mm": ["shares_mm"], "files": files, "fs": files, "sighand": []}


def test_children_and_the_tree(inspector: Inspector, look: Inspection, states: States) -> None:
    assert look.tree is not None and look.tree.pid == states.pid
    below = {node.pid: node for node in look.tree.children}
    assert below.keys() == set(states.children.values())
    kinds = {kind: below[pid] for kind, pid in states.children.items()}
    letters = {kind: node.state for kind, node in kinds.items()}
    assert letters == {
        **dict.fromkeys(("shares_files", "shares_mm", "shares_futex"), "S"),
        "zombie": "Z",
        "stopped": "T",
        "traced": "t",
        "vfork_parent": "D",
    }
    assert kinds["vfork_parent"].call == "vfork()"
    (vforked,) = kinds["vfork_parent"].children
    child = inspector.inspect(vforked.pid).processes[0]
    assert any("made by vfork" in flag for flag in child.flags)
    zombie = inspector.inspect(states.children["zombie"]).processes[0]
    assert (zombie.kind, zombie.exit_status) == ("zombie", "exited with 7")
    traced = inspector.inspect(states.children["traced"]).processes[0].threads[0]
    assert traced.tracer is not None and traced.tracer.tid == states.pid
    stopped = inspector.inspect(states.children["stopped"])
    assert stopped.processes[0].flags == ("stopped by a signal, all threads",)
    assert not list(tree_pids(stopped.tree))


def tree_pids(node: TreeNode | None) -> Iterator[int]:
    """Yield every pid of a tree."""
    if node is not None:
        yield node.pid
        for child in node.children:
            yield from tree_pids(child)


def test_the_restart_block_of_a_stopped_sleeper(inspector: Inspector) -> None:
    with subprocess.Popen(["/bin/sleep", "1000"]) as process:
        try:
            wait_for_state(process.pid, "S")
            process.send_signal(19)  # SIGSTOP
            wait_for_state(process.pid, "T")
            thread = inspector.inspect(process.pid).processes[0].threads[0]
            process.send_signal(18)  # SIGCONT
            wait_for_state(process.pid, "S")
            again = inspector.inspect(process.pid).processes[0].threads[0]
        finally:
            process.kill()
    assert again.call is not None and again.call.text == "restart_syscall()"
    assert "goes on with" in again.call_note and again.restart is not None
    assert again.restart.is_live and again.restart.function == "hrtimer_nanosleep_restart"
    assert thread.call_note.startswith("interrupted, ERESTART_RESTARTBLOCK")
    assert thread.restart is not None and thread.restart.is_live
    assert thread.restart.function == "hrtimer_nanosleep_restart"
    assert thread.restart.arguments["clock"] == "CLOCK_MONOTONIC"
    assert thread.restart.arguments["rmtp"].startswith("0x")
    assert thread.restart.left_ns is not None and 990 * SECOND < thread.restart.left_ns <= LONG_NS


def wait_for_state(pid: int, letter: str) -> None:
    """Wait until a process is in a state."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != letter:
        assert time.monotonic() < deadline, letter
        time.sleep(0.005)


def test_one_thread_alone(inspector: Inspector, states: States) -> None:
    tid = states.threads["poll"]
    look = inspector.inspect(tid)
    assert [thread.tid for thread in look.processes[0].threads] == [tid]
    assert look.tree is None and look.processes[0].thread_count > 1
    text = "\n".join(inspection_lines(look))
    assert f"thread {tid} poll: S" in text and "other threads of the process" in text


def test_text_folds_idle_threads_and_json_does_not(look: Inspection) -> None:
    text = "\n".join(inspection_lines(look))
    assert text.count(" idle: S") == 1 and "5 more like this one" in text
    for kind in ("deadlock_one", "robust_owner", "circular"):
        assert text.count(f" {kind}: S") == 1
    plain = json.loads(msgspec.json.encode(look))
    assert sum(t["comm"] == "idle" for t in plain["processes"][0]["threads"]) == 6
    assert " waits for thread " in text and "owned by thread" in text


def test_no_address_of_the_kernel_is_shown(look: Inspection) -> None:
    numbers = map(int, re.findall(rb"\d{15,}", msgspec.json.encode(look)))
    assert not [number for number in numbers if 1 << 63 <= number < (1 << 64) - 4096]
    assert not re.search("0xffff[89a-f][0-9a-f]{11}", "\n".join(inspection_lines(look)))


def test_no_such_process(inspector: Inspector) -> None:
    with pytest.raises(CaptureError, match="no such process or thread"):
        inspector.inspect(2**22 - 1)

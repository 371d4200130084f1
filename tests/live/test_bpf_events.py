"""Events of watched processes, and what a warm run loads and shows."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from ckpt.errors import HostError
from ckpt.host.bpf import BpfObserver, open_observer
from ckpt.host.bpf_bytecode import Program
from ckpt.host.bpf_cache import Cache
from ckpt.host.bpf_store import PROGRAMS, cache_key, load_programs
from ckpt.host.kernel_view import NanosleepRestart, PollRestart, TaskEvent
from ckpt.host.observer import TaskWatch
from tests.live.harness import Build, wait_until
from tests.live.kernel_state import State, is_in_call, running_state

EVENT_S = 10.0
SYS_CLOCK_NANOSLEEP, SYS_RESTART_SYSCALL = 230, 219
RESTARTING = ("nanosleep", "boottime", "cpu", "futex", "futex_realtime", "poll")
KERNEL_ADDRESS = re.compile(r"0x[89a-f][0-9a-f]{15}|\b(?:9[3-9]|1[0-8]\d)\d{17}\b")
"""Hexadecimal, or decimal from the start of the kernel's half (0xffff... is 1844674...)."""
WARM_RUN = """
import os, sys
from ckpt.host.bpf import open_observer
with open_observer() as observer:
    observer.prepare()
    view = observer.observe_threads(os.getpid())
    assert observer.observe_files(os.getpid()) and observer.observe_areas(os.getpid())
maps = open("/proc/self/maps").read()
print([name for name in ("libbcc", "libLLVM", "libclang") if name in maps],
      "bcc" in sys.modules, "ckpt.host.btf" in sys.modules)
"""


@pytest.fixture(scope="module")
def observer() -> Iterator[BpfObserver]:
    with open_observer() as opened:
        yield opened


@pytest.fixture(scope="module")
def state(build: Build) -> Iterator[State]:
    with running_state(build) as running:
        yield running


def collect(watch: TaskWatch, enough: int, *kinds: str) -> list[TaskEvent]:
    """Drain until there are ``enough`` events (of these kinds)."""
    events: list[TaskEvent] = []

    def has_enough() -> bool:
        events.extend(event for event in watch.drain() if not kinds or event.kind in kinds)
        return len(events) >= enough

    wait_until(f"{enough} events", has_enough, EVENT_S)
    return events


def test_fork_exec_and_exit(observer: BpfObserver, state: State) -> None:
    with observer.watch_tasks(state.pid) as watch:
        state.command("fork")
        child = int(state.read_until("forked")[0])
        events = collect(watch, 3)
        assert watch.lost == 0
    told = [(event.kind, event.tid, event.tgid) for event in events]
    assert told == [
        ("fork", state.pid, state.pid),
        ("exec", child, child),
        ("exit", child, child),
    ]
    assert (events[0].other_tid, events[0].other_tgid) == (child, child)
    assert [event.time_ns for event in events] == sorted(event.time_ns for event in events)


def test_thread_start_and_end(observer: BpfObserver, state: State) -> None:
    with observer.watch_tasks(state.pid) as watch:
        state.command("thread")
        state.read_until("joined")
        started, ended = collect(watch, 2)
    assert (started.kind, started.tid, started.other_tgid) == ("fork", state.pid, state.pid)
    assert (ended.kind, ended.tid, ended.tgid) == ("exit", started.other_tid, state.pid)


def test_other_processes_are_not_watched(observer: BpfObserver, state: State) -> None:
    with observer.watch_tasks(state.pid) as watch:
        subprocess.run(["/bin/true"], check=True)
        assert watch.drain() == []


def test_armed_restart_blocks(observer: BpfObserver, state: State) -> None:
    tids = {kind: tid for kind, (tid, *_) in state.sleepers().items()}
    timers = observer.observe_threads(state.pid).threads
    wanted = {tids[kind] for kind in RESTARTING}
    with observer.watch_tasks(state.pid, restarts=True) as watch:
        os.kill(state.pid, signal.SIGSTOP)
        armed = {event.tid: event for event in collect(watch, len(wanted), "restart_armed")}
        os.kill(state.pid, signal.SIGCONT)
        used = collect(watch, len(wanted), "restart_syscall")
        assert watch.lost == 0
    entered = {event.tid: event for event in used}
    assert armed.keys() == entered.keys() == wanted
    assert armed[tids["nanosleep"]].syscall == SYS_CLOCK_NANOSLEEP
    assert entered[tids["nanosleep"]].syscall == SYS_RESTART_SYSCALL
    for kind in ("nanosleep", "poll"):
        restart, timer = armed[tids[kind]].restart, timers[tids[kind]].blocked_timer
        assert isinstance(restart, NanosleepRestart | PollRestart) and timer is not None
        assert restart.expires_ns in {timer.expires_ns, timer.latest_ns}
        assert entered[tids[kind]].restart == restart


def test_events_that_do_not_fit_are_counted(observer: BpfObserver) -> None:
    script = "for i in $(seq 4000); do (:); done"
    command = ["/bin/sh", "-c", f"read go; {script}"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE) as shell,
        observer.watch_tasks(shell.pid) as watch,
    ):
        shell.communicate(b"go\n")
        events = watch.drain()
        assert watch.lost > 0
        assert len(events) + watch.lost >= 8000


def test_warm_run_loads_no_compiler() -> None:
    with Cache() as cache:
        load_programs(cache)
    command = [sys.executable, "-c", WARM_RUN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] False False"


def test_cache_is_filled_used_and_rebuilt(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    with Cache(folder) as cache:
        assert cache.is_usable
        programs = load_programs(cache)
        assert programs.keys() == set(PROGRAMS)
        entry = folder / f"bytecode-{cache_key()}"
        assert (folder.stat().st_mode & 0o777, entry.stat().st_mode & 0o777) == (0o700, 0o600)
        damaged = bytearray(entry.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        entry.write_bytes(damaged)
        assert load_programs(cache) == programs
        assert entry.read_bytes() != damaged
    with open_observer(Cache(folder)) as observer:
        assert observer.observe_threads(os.getpid()).threads


def test_cache_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    with Cache(folder) as cache:
        assert not cache.is_usable
        cache.store("entry", b"payload")
        assert cache.load("entry") is None
    assert not list(folder.iterdir())
    link = tmp_path / "link"
    target = tmp_path / "target"
    target.mkdir(0o700)
    link.symlink_to(target)
    with Cache(link) as cache:
        assert not cache.is_usable


def test_nothing_public_holds_a_kernel_address(observer: BpfObserver, state: State) -> None:
    os.kill(state.pid, signal.SIGSTOP)
    view = observer.observe_threads(state.pid)
    os.kill(state.pid, signal.SIGCONT)
    assert view.process is not None
    parts: list[msgspec.Struct] = [
        *view.threads.values(),
        msgspec.structs.replace(view.process, rlimits=(), sigactions=()),
        *view.mms.values(),
        *observer.observe_files(state.pid),
        *observer.observe_areas(state.pid),
    ]
    for part in parts:
        plain = msgspec.structs.asdict(part)
        plain.pop("regs", None)  # ax holds -516 and the like
        for text in (repr(plain), json.dumps(msgspec.to_builtins(plain))):
            assert not KERNEL_ADDRESS.search(text), KERNEL_ADDRESS.findall(text)
    sleeper, number, _, _ = state.sleepers()["futex_forever"]
    wait_until("it sleeps again", lambda: is_in_call(sleeper, number), EVENT_S)
    stack = observer.read_stack(sleeper)
    assert "do_syscall_64" in stack and any("futex_wait" in name for name in stack)
    assert not KERNEL_ADDRESS.search(repr(stack))


def test_verifiers_words_without_addresses(observer: BpfObserver) -> None:
    """A program that the verifier refuses: it loads a symbol's address and reads from it."""
    address = 0xFFFFFFFF81234567
    load = struct.pack("<BBhI", 0x18, 0x01, 0, address & 0xFFFFFFFF)
    load += struct.pack("<BBhI", 0, 0, 0, address >> 32)
    read, leave = struct.pack("<BBhi", 0x79, 0x10, 0, 0), struct.pack("<BBhi", 0x95, 0, 0, 0)
    program = Program("raw_tracepoint", "sched_process_exit", 0, b"", (), ())
    with pytest.raises(HostError, match="refused by the verifier") as caught:
        observer._lib.load_program(program, load + read + leave)
    assert "R1 invalid mem access" in str(caught.value)
    assert "81234567" not in str(caught.value)

"""A thread caught inside a system call finds the call going on, and its time limit kept."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping

import pytest

from tests.live.harness import PAUSE_S, Build, Case, Mode, Run, Target, wait_until

RESTORABLE = {
    "blocked_sleep": (
        *("nanosleep", "nanosleep_libc", "nanosleep_int80", "nanosleep_registers"),
        *("nanosleep_signal", "monotonic", "boottime", "realtime", "monotonic_until"),
        *("boottime_until", "realtime_until", "cpu_clock"),
    ),
    "blocked_poll": (
        *("poll", "poll_forever", "poll_nothing", "poll_signal", "poll_loop"),
        *("ppoll", "ppoll_raw", "ppoll_forever", "ppoll_signal"),
        *("select_raw", "select_forever"),
        *("pselect6", "pselect6_raw", "pselect6_forever", "pselect6_signal"),
        *("epoll_wait", "epoll_wait_raw", "epoll_wait_forever", "epoll_loop"),
        *("epoll_pwait", "epoll_pwait_signal", "epoll_pwait2", "epoll_pwait2_forever"),
    ),
    "blocked_futex": (
        *("wait", "wait_shared", "wait_forever", "wait_shared_forever", "wait_signal"),
        *("bitset", "bitset_realtime", "bitset_forever", "lock_pi", "waitv"),
        *("libc_semaphore", "libc_semaphore_forever", "libc_condition"),
    ),
    "blocked_signal": ("sigtimedwait", "sigwaitinfo", "sigsuspend", "pause"),
    "blocked_read": (
        *("pipe", "pipe_full", "eventfd", "timerfd", "recv", "recvmsg"),
        *("recv_rcvtimeo", "recv_rcvtimeo_woken", "flock", "ofd_lock", "posix_lock"),
    ),
}
# An absolute CPU-clock deadline cannot come back.
LEFT_RUNNING_ONLY = {"blocked_sleep": ("cpu_clock_until",)}
# What these wait on is not restored yet, so they are only frozen and let go.
THAWED_ONLY = {
    "blocked_ipc": (
        *("semtimedop", "semop", "msgrcv", "mq_timedreceive", "mq_receive"),
        *("io_getevents", "io_getevents_forever", "inotify", "wait4", "waitid", "terminal"),
    ),
}


def _cases(calls: Mapping[str, tuple[str, ...]]) -> list[Case]:
    return [Case(program, (name,)) for program, names in calls.items() for name in names]


@pytest.mark.parametrize("mode", [Mode.LEFT_RUNNING, Mode.RESTORED])
@pytest.mark.parametrize("case", _cases(RESTORABLE), ids=lambda case: case.name)
def test_call_goes_on(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)


@pytest.mark.parametrize("mode", [Mode.LEFT_RUNNING])
@pytest.mark.parametrize("case", _cases(LEFT_RUNNING_ONLY), ids=lambda case: case.name)
def test_call_goes_on_in_a_process_left_running(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)


@pytest.mark.parametrize("mode", [Mode.THAWED])
@pytest.mark.parametrize("case", _cases(THAWED_ONLY), ids=lambda case: case.name)
def test_call_goes_on_in_a_process_frozen_and_let_go(run: Run, case: Case, mode: Mode) -> None:
    run(case, mode)


RESTARTED = [
    Case("blocked_sleep", ("nanosleep",)),
    Case("blocked_sleep", ("nanosleep_int80",)),
    Case("blocked_poll", ("poll",)),
    Case("blocked_poll", ("epoll_wait_raw",)),
    Case("blocked_futex", ("wait",)),
    Case("blocked_signal", ("sigtimedwait",)),
    Case("blocked_read", ("recv_rcvtimeo",)),
]


@pytest.mark.parametrize("mode", [Mode.LEFT_RUNNING, Mode.RESTORED])
@pytest.mark.parametrize("case", RESTARTED, ids=lambda case: case.name)
def test_second_snapshot_of_a_restarted_call(build: Build, case: Case, mode: Mode) -> None:
    """The thread is then inside restart_syscall, or in a call already shortened once."""
    with Target(case, build) as target:
        target.start()
        assert target.wait_ready()
        for _ in range(2):
            if mode is Mode.RESTORED:
                target.snapshot()
                time.sleep(PAUSE_S / 2)
                target.restore()
            else:
                target.snapshot("--leave-running")
        target.go(mode)
        assert target.wait_result().text == "PASS\n"


def _is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("mode", [Mode.LEFT_RUNNING, Mode.RESTORED])
@pytest.mark.parametrize("call", ["nanosleep", "epoll_wait", "poll", "read"])
def test_a_handled_signal_still_breaks_the_call_off(build: Build, call: str, mode: Mode) -> None:
    """The signal is pending, not yet delivered, when the snapshot is taken."""
    with Target(Case("interrupted", (call,)), build) as target:
        target.start()
        assert target.wait_ready()
        os.kill(target.pid, signal.SIGSTOP)
        wait_until("stop", lambda: _is_stopped(target.pid), 5.0)
        os.kill(target.pid, signal.SIGUSR1)
        if mode is Mode.RESTORED:
            target.snapshot()
            target.restore()
        else:
            target.snapshot("--leave-running")
        # The program looks as soon as it is told to go: first its calls have to be over.
        os.kill(target.pid, signal.SIGCONT)
        target.go(mode)
        assert target.wait_result().text == "PASS\n"

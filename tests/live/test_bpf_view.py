"""What BPF shows of threads and processes, against a second source for every value."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt.host.bpf import BpfObserver, open_observer
from ckpt.host.kernel_view import (
    PF_FORKNOEXEC,
    SIGNAL_STOP_STOPPED,
    CpuSleepRestart,
    FutexRestart,
    KernelView,
    NanosleepRestart,
    PollRestart,
    SigAction,
)
from tests.live.harness import Build, wait_until
from tests.live.kernel_state import State, get_robust_list, kcmp, parse_status, running_state

CLOCK_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
TICK_NS = round(time.clock_getres(6) * 1e9)
"""Of the kernel: the resolution of CLOCK_MONOTONIC_COARSE."""
START_SPREAD_NS = 500_000_000
"""From when a thread says its deadline to when the last thread is there and all begin to sleep."""
TIMER_TOLERANCE_NS = 50_000_000
STOP_S = 10.0
KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND, KCMP_SYSVSEM = 1, 2, 3, 4, 6
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH = 0x4206, 0x4207, 17
PTRACE_GETSIGMASK, PTRACE_GET_RSEQ_CONFIGURATION = 0x420A, 0x420F
SCHED_BATCH = 3
EVENT_STOP = 128
NOBODY = 65534
RLIM_NLIMITS = 16

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def observer() -> Iterator[BpfObserver]:
    with open_observer() as opened:
        yield opened


@pytest.fixture(scope="module")
def state(build: Build) -> Iterator[State]:
    with running_state(build) as running:
        yield running


@pytest.fixture
def view(observer: BpfObserver, state: State) -> KernelView:
    return observer.observe_threads(state.pid)


def test_threads_are_those_of_proc(view: KernelView, state: State) -> None:
    assert sorted(view.threads) == state.tids()
    assert view.process is not None
    assert view.process.nr_threads == view.process.live == len(state.tids())


def test_numbers_of_proc_stat_and_status(view: KernelView, state: State) -> None:
    for tid, thread in view.threads.items():
        stat, status = state.stat(tid), state.status(tid)
        assert (thread.tgid, thread.tid) == (state.pid, tid)
        assert thread.comm == Path(f"/proc/{state.pid}/task/{tid}/comm").read_text()[:-1]
        assert thread.parent_tgid == int(stat[4]) == os.getpid()
        assert (thread.flags, thread.exit_signal) == (int(stat[9]), -1) or tid == state.pid
        assert thread.prio == int(stat[18]) + 100
        assert thread.static_prio == int(stat[19]) + 120
        assert thread.normal_prio == thread.prio
        assert (thread.rt_priority, thread.policy) == (int(stat[40]), int(stat[41]))
        assert thread.start_boottime_ns is not None
        assert thread.start_boottime_ns // CLOCK_TICK_NS == int(stat[22])
        assert thread.exit_code == 0
        assert thread.tracer_tid == int(status["TracerPid"]) == thread.ptrace == 0
        assert thread.no_new_privs == bool(int(status["NoNewPrivs"]))
        assert thread.seccomp_mode == int(status["Seccomp"])
        assert thread.seccomp_filter_count == int(status["Seccomp_filters"])
        assert thread.umask == int(status["Umask"], 8)
        assert thread.nvcsw == int(status["voluntary_ctxt_switches"])
        assert thread.nivcsw == int(status["nonvoluntary_ctxt_switches"])
        assert thread.exit_state == 0


def test_signals_of_proc_status(view: KernelView, state: State) -> None:
    for tid, thread in view.threads.items():
        status = state.status(tid)
        assert thread.blocked == int(status["SigBlk"], 16)
        assert thread.pending == int(status["SigPnd"], 16)
    assert view.process is not None
    assert view.process.shared_pending == int(state.status(state.pid)["ShdPnd"], 16)
    assert view.threads[state.pid].pending == 1 << signal.SIGUSR2 - 1
    assert view.process.shared_pending & 1 << signal.SIGUSR1 - 1


def test_per_thread_numbers_without_a_proc_file(view: KernelView, state: State) -> None:
    for tid, thread in view.threads.items():
        personality = Path(f"/proc/{state.pid}/task/{tid}/personality").read_text()
        assert thread.personality == int(personality, 16)
        assert thread.robust_list == get_robust_list(tid)
    main = view.threads[state.pid]
    assert main.timer_slack_ns == state.number("timer_slack") == 123456
    assert main.default_timer_slack_ns == 50_000
    assert main.pdeath_signal == signal.SIGTERM
    assert main.compat_robust_list == state.number("compat_robust_list")
    assert main.clear_child_tid == state.number("clear_child_tid")
    altstack = [int(word) for word in state.said["altstack"][0]]
    assert [main.sas_ss_sp, main.sas_ss_size, main.sas_ss_flags] == [*altstack, 0]
    assert main.exit_signal == int(state.stat(state.pid)[38]) == signal.SIGCHLD
    assert main.has_children and main.has_sysvsem_undo


def test_thread_with_properties_of_its_own(view: KernelView, state: State) -> None:
    tid, slack, pdeath = (int(word) for word in state.said["special"][0])
    thread, main = view.threads[tid], view.threads[state.pid]
    assert thread.comm == "special one"
    assert (thread.timer_slack_ns, thread.pdeath_signal) == (slack, pdeath)
    assert thread.policy == SCHED_BATCH == os.sched_getscheduler(tid)
    assert thread.static_prio == 120 + os.getpriority(os.PRIO_PROCESS, tid) == 127
    assert (thread.seccomp_mode, thread.seccomp_filter_count) == (2, 2)
    assert thread.no_new_privs and not main.no_new_privs
    assert thread.has_syscall_user_dispatch and not main.has_syscall_user_dispatch
    altstack = [int(word) for word in state.said["special_altstack"][0]]
    assert [thread.sas_ss_sp, thread.sas_ss_size, thread.sas_ss_flags] == altstack
    assert thread.umask == 0o27 and main.umask == 0o31
    assert thread.fs_users == thread.files_count == 1
    assert main.fs_users == main.files_count == len(view.threads) - 1


def test_child_with_tid_addresses(observer: BpfObserver, state: State) -> None:
    child, exit_signal, set_tid = (int(word) for word in state.said["child"][0])
    thread = observer.observe_threads(child).threads[child]
    assert thread.set_child_tid == thread.clear_child_tid == set_tid
    assert thread.exit_signal == exit_signal == signal.SIGUSR2
    assert thread.pdeath_signal == signal.SIGKILL
    assert thread.parent_tgid == state.pid == thread.real_parent_tid
    assert thread.flags is not None and thread.flags & PF_FORKNOEXEC
    assert not thread.has_children


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (KCMP_VM, "mm"),
        (KCMP_FILES, "files"),
        (KCMP_FS, "fs"),
        (KCMP_SIGHAND, "sighand"),
    ],
)
def test_identities_are_those_of_kcmp(
    observer: BpfObserver, view: KernelView, state: State, kind: int, field: str
) -> None:
    child = int(state.said["child"][0][0])
    threads = view.threads | observer.observe_threads(child).threads
    special = int(state.said["special"][0][0])
    for tid in threads:
        for other in (state.pid, special, child):
            is_same = kcmp(tid, other, kind) == 0
            found = getattr(threads[tid], field) == getattr(threads[other], field)
            assert found == is_same, (tid, other)


def test_namespaces_are_those_of_proc(view: KernelView, state: State) -> None:
    for tid, thread in view.threads.items():
        names = thread.namespaces
        assert names is not None and names.count is not None and names.count > 0
        found = {
            "uts": names.uts,
            "ipc": names.ipc,
            "mnt": names.mnt,
            "net": names.net,
            "time": names.time,
            "time_for_children": names.time_for_children,
            "cgroup": names.cgroup,
            "pid": thread.pid_ns,
            "pid_for_children": names.pid_for_children,
            "user": thread.user_ns,
        }
        for name, number in found.items():
            link = os.readlink(f"/proc/{state.pid}/task/{tid}/ns/{name}")
            assert link.endswith(f":[{number}]"), (name, number)


def test_registers_are_those_of_proc_syscall(view: KernelView, state: State) -> None:
    for tid, number, _, _ in state.sleepers().values():
        words = Path(f"/proc/{state.pid}/task/{tid}/syscall").read_text().split()
        regs = view.threads[tid].regs
        assert regs is not None
        assert regs.orig_ax == int(words[0]) == number
        assert (regs.sp, regs.ip) == (int(words[7], 16), int(words[8], 16))
        assert view.threads[tid].ti_status == 0


def test_deadlines_of_blocked_calls(view: KernelView, state: State) -> None:
    for kind, (tid, _, clock, deadline) in state.sleepers().items():
        timer = view.threads[tid].blocked_timer
        if not deadline:
            assert timer is None, kind
            continue
        assert timer is not None, kind
        assert timer.clockid == clock, kind
        assert timer.kind == ("process_timeout" if kind == "recv" else "hrtimer")
        if clock == time.CLOCK_REALTIME:
            assert timer.expires_ns == deadline, kind
        early_ns = TICK_NS if timer.kind == "process_timeout" else 0
        assert -early_ns <= timer.expires_ns - deadline <= START_SPREAD_NS, kind
        assert 0 <= timer.latest_ns - timer.expires_ns <= 100_000_000


def test_limits_are_those_of_prlimit(view: KernelView, state: State) -> None:
    assert view.process is not None and len(view.process.rlimits) == RLIM_NLIMITS
    for number, limit in enumerate(view.process.rlimits):
        expected = tuple(word % 2**64 for word in resource.prlimit(state.pid, number))
        assert (limit.soft, limit.hard) == expected, number


def test_dispositions_are_those_of_sigaction(view: KernelView, state: State) -> None:
    assert view.process is not None and view.process.sigactions is not None
    assert len(state.said["sigaction"]) == 64
    for words in state.said["sigaction"]:
        signo, handler, flags, restorer, mask = (int(word) for word in words)
        found = view.process.sigactions[signo - 1]
        assert found == SigAction(handler, flags, restorer, mask), signo


def test_process_numbers(view: KernelView, state: State) -> None:
    process, stat = view.process, state.stat(state.pid)
    assert process is not None
    assert (process.pgrp, process.session) == (int(stat[5]), int(stat[6]))
    assert process.tty_dev == int(stat[7]) and (process.tty_index is not None) == bool(
        stat[7] != "0"
    )
    adjust = int(Path(f"/proc/{state.pid}/oom_score_adj").read_text())
    assert process.oom_score_adj == adjust == 321
    assert process.is_child_subreaper
    assert process.is_session_leader == (process.session == state.pid)
    assert process.sighand_count == len(view.threads)
    assert process.signal_flags == process.group_exit_code == process.group_stop_count == 0
    assert process.next_posix_timer_id == len(process.posix_timers or ())


def test_itimers(view: KernelView, state: State) -> None:
    process = view.process
    assert process is not None and process.itimer_real and process.itimer_prof
    assert process.itimer_virtual is not None
    real_deadline = view.observed_ns + process.itimer_real.value_ns
    assert abs(real_deadline - state.number("itimer_real_deadline")) < TIMER_TOLERANCE_NS
    assert process.itimer_real.interval_ns == 3_000_000_000
    for itimer, seconds, interval_s in (
        (process.itimer_virtual, 600, 4),
        (process.itimer_prof, 700, 5),
    ):
        assert abs(itimer.value_ns - seconds * 10**9) < 10**9
        assert itimer.interval_ns == interval_s * 10**9


def test_posix_timers(view: KernelView, state: State) -> None:
    assert view.process is not None and view.process.posix_timers is not None
    timers = {timer.timer_id: timer for timer in view.process.posix_timers}
    text = "\n" + Path(f"/proc/{state.pid}/timers").read_text()
    listed = {int(part.split()[0]): part for part in text.split("\nID: ")[1:]}
    assert timers.keys() == listed.keys()
    assert len(timers) == state.number("spare_timers") + 6
    notify_names = {0: "signal", 1: "none", 2: "thread", 4: "signal"}
    for timer_id, part in listed.items():
        fields = dict(line.split(": ", 1) for line in part.splitlines()[1:])
        timer = timers[timer_id]
        signo, _, sigval = fields["signal"].partition("/")
        assert (timer.signo, timer.sigval) == (int(signo), int(sigval, 16))
        kind, _, target = fields["notify"].partition("/")
        assert kind == notify_names[timer.notify]
        assert target == f"{'tid' if timer.notify == 4 else 'pid'}.{timer.notify_tid}"
        clock = int(fields["ClockID"])
        assert timer.clockid == {-6: 2, -2: 3}.get(clock, clock)
    for words in state.said["timer"]:
        timer_id, _, deadline, value, interval = (int(word) for word in words)
        timer = timers[timer_id]
        assert timer.expires_ns is not None and timer.value_ns is not None
        is_cpu_clock = timer.clockid in (2, 3)
        assert timer.interval_ns == interval
        assert 0 < timer.value_ns <= value
        assert abs(timer.expires_ns - deadline) < (10**9 if is_cpu_clock else TIMER_TOLERANCE_NS)


def test_overrunning_timer(view: KernelView, state: State) -> None:
    assert view.process is not None and view.process.posix_timers is not None
    number = state.number("overrunning_timer")
    timer = next(one for one in view.process.posix_timers if one.timer_id == number)
    assert timer.signal_queued
    assert timer.interval_ns == 1_000_000
    assert timer.value_ns is not None and 0 < timer.value_ns <= timer.interval_ns
    spare = [one for one in view.process.posix_timers if one.clockid == time.CLOCK_TAI]
    assert all(one.expires_ns is None and not one.signal_queued for one in spare)


def test_traced_threads_mask_and_rseq(observer: BpfObserver, state: State) -> None:
    suspended = state.sleepers()["sigsuspend"][0]
    normal, temporary = (int(word) for word in state.said["sigsuspend_masks"][0])
    for tid in (state.pid, suspended):
        before = observer.observe_threads(state.pid).threads[tid]
        _ptrace(PTRACE_SEIZE, tid)
        _ptrace(PTRACE_INTERRUPT, tid)
        _, status = os.waitpid(tid, 0x40000000)
        assert status >> 16 == EVENT_STOP
        thread = observer.observe_threads(state.pid).threads[tid]
        mask, rseq = ctypes.c_uint64(), (ctypes.c_uint32 * 6)()
        _ptrace(PTRACE_GETSIGMASK, tid, 8, mask)
        size = _ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tid, ctypes.sizeof(rseq), rseq)
        _ptrace(PTRACE_DETACH, tid)
        assert size == ctypes.sizeof(rseq)
        true_mask = thread.saved_sigmask if thread.restore_sigmask else thread.blocked
        assert true_mask == mask.value
        assert thread.tracer_tid == os.getpid() and thread.ptrace
        assert thread.blocked_timer is None
        assert thread.rseq is not None
        address = rseq[1] << 32 | rseq[0]
        assert (thread.rseq.address, thread.rseq.length, thread.rseq.signature) == (
            address,
            rseq[2],
            rseq[3],
        )
        assert address
        if tid == suspended:
            assert (before.blocked, before.restore_sigmask) == (temporary, False)
            assert (thread.restore_sigmask, thread.saved_sigmask) == (True, normal)


def _ptrace(request: int, tid: int, size: int = 0, data: object = None) -> int:
    pointer = None if data is None else ctypes.byref(data)  # type: ignore[arg-type]
    result = int(libc.ptrace(request, tid, ctypes.c_void_p(size), pointer))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")
    return result


def test_restart_blocks_of_a_stopped_process(observer: BpfObserver, state: State) -> None:
    before = observer.observe_threads(state.pid).threads
    futex_tid, futex_number, _, _ = state.sleepers()["futex"]
    futex_call = Path(f"/proc/{futex_tid}/syscall").read_text().split()
    assert futex_call[0] == str(futex_number)
    os.kill(state.pid, signal.SIGSTOP)
    try:
        wait_until("all threads stopped", lambda: _is_stopped(state), STOP_S)
        view = observer.observe_threads(state.pid)
    finally:
        os.kill(state.pid, signal.SIGCONT)
    assert view.process is not None and view.process.signal_flags is not None
    assert view.process.signal_flags & SIGNAL_STOP_STOPPED
    tids = {kind: tid for kind, (tid, *_) in state.sleepers().items()}
    for kind, clock in (("nanosleep", time.CLOCK_MONOTONIC), ("boottime", time.CLOCK_BOOTTIME)):
        restart, timer = view.threads[tids[kind]].restart, before[tids[kind]].blocked_timer
        assert isinstance(restart, NanosleepRestart) and timer is not None
        # The kernel keeps the latest time, with the timer slack added (hrtimer_nanosleep).
        assert (restart.clockid, restart.expires_ns) == (clock, timer.latest_ns)
        assert (restart.rmtp_type, bool(restart.rmtp)) == (
            (1, True) if kind == "nanosleep" else (0, False)
        )
    futex, timer = view.threads[tids["futex"]].restart, before[tids["futex"]].blocked_timer
    assert isinstance(futex, FutexRestart) and timer is not None
    assert (futex.val, futex.bitset, futex.expires_ns) == (0, 2**32 - 1, timer.expires_ns)
    assert futex.uaddr == int(futex_call[1], 16)
    realtime = view.threads[tids["futex_realtime"]].restart
    assert isinstance(realtime, FutexRestart)
    assert (realtime.bitset, realtime.flags & 0x20) == (0x5A, 0x20)
    assert realtime.expires_ns == state.sleepers()["futex_realtime"][3]
    poll, timer = view.threads[tids["poll"]].restart, before[tids["poll"]].blocked_timer
    assert isinstance(poll, PollRestart) and timer is not None
    assert (poll.ufds, poll.nfds, poll.expires_ns) == (0, 0, timer.expires_ns)
    cpu = view.threads[tids["cpu"]].restart
    assert isinstance(cpu, CpuSleepRestart) and cpu.clockid < 0
    assert cpu.expires_ns // 10**9 == 1000
    for kind in ("futex_forever", "ppoll", "sigtimedwait"):
        assert view.threads[tids[kind]].restart is None


def _is_stopped(state: State) -> bool:
    return all(state.stat(tid)[3] == "T" for tid in state.tids())


def test_process_whose_leader_has_exited(observer: BpfObserver, build: Build) -> None:
    with running_state(build, "leaderless") as state:
        tid = state.number("thread")
        status = lambda: parse_status(state.pid, state.pid)["State"]  # noqa: E731
        wait_until("the leader is a zombie", lambda: status().startswith("Z"), STOP_S)
        view = observer.observe_threads(state.pid)
        assert sorted(view.threads) == [state.pid, tid]
        assert view.threads[state.pid].exit_state and not view.threads[tid].exit_state
        assert view.mm is not None and view.mm.mm == view.threads[tid].mm
        assert view.process is not None and view.process.live == 1
        assert observer.observe_files(tid) and observer.observe_areas(tid)


def test_process_of_another_user(observer: BpfObserver, build: Build) -> None:
    with running_state(build, "leaderless", user=NOBODY) as state:
        assert parse_status(state.pid, state.number("thread"))["Uid"].split() == [str(NOBODY)] * 4
        view = observer.observe_threads(state.pid)
        assert view.process is not None
        limits = Path(f"/proc/{state.pid}/task/{state.number('thread')}/limits").read_text()
        open_files = re.search(r"Max open files +(\d+) +(\d+)", limits)
        assert open_files is not None
        found = view.process.rlimits[resource.RLIMIT_NOFILE]
        assert (found.soft, found.hard) == tuple(map(int, open_files.groups()))


def test_no_such_process(observer: BpfObserver) -> None:
    from ckpt.errors import CaptureError

    with pytest.raises(CaptureError, match="no such process"):
        observer.observe_threads(2**22 - 1)

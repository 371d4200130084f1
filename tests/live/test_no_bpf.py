"""Looking without BPF: the same values as with it, and a target that does not notice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import pytest

from ckpt import freeze, target
from ckpt.host import ptrace
from ckpt.host.bpf import open_observer
from ckpt.host.kernel_view import FileView, KernelView, PosixTimer, VmaView
from ckpt.host.proc_view import GAPS, ProcObserver
from ckpt.objects.base import Options, Process
from tests.live.harness import Build, Case, Mode, Target, run_case
from tests.live.kernel_state import running_state

ROUNDS = 20
STOP_S = 20.0
STACK_BYTES = 8192
"""How much of each stack, on both sides of its pointer, is compared."""
CLOSE_NS = 100_000_000
ITIMERS = {"itimer_real": 10 * CLOSE_NS, "itimer_virtual": CLOSE_NS, "itimer_prof": CLOSE_NS}
"""How far each may differ: the read-only calls take CPU time, which is charged by whole ticks."""
NT_PRSTATUS_BYTES = 216
XSTATE_ROOM = 16384

VOLATILE = {"observed_ns", "boottime_ns"}
IDENTITIES = {"mm", "files", "fs", "sighand", "signal", "nsproxy", "tty", "exe", "file", "inode"}
UNSEEN_THREAD = {
    "ti_status",
    "ti_flags",
    "start_boottime_ns",
    "utime_ns",
    "stime_ns",
    "runtime_ns",
    "compat_robust_list",
    "set_child_tid",
    "default_timer_slack_ns",
    "real_blocked",
    "normal_prio",
    "ptrace",
    "jobctl",
    "in_execve",
    "has_vfork_done",
    "real_parent_tid",
    "cred",
    "has_io_uring",
    "has_sysvsem_undo",
    "has_syscall_user_dispatch",
    "files_count",
    "fs_users",
    "sighand_count",
}
UNSEEN_PROCESS = {
    "live",
    "sighand_count",
    "signal_refs",
    "next_posix_timer_id",
    "has_child_subreaper",
    "signal_flags",
    "group_stop_count",
    "group_exit_code",
    "tty_index",
    "oom_score_adj_min",
}
UNSEEN_MM = {"mm_users", "mm_count", "flags", "def_flags", "pkey_allocation_map"} | {
    "has_notify_users"
}
UNSEEN_FILE = {"f_count", "f_mode", "private"}


class Both(NamedTuple):
    """The same stopped program, seen by either source."""

    bpf: KernelView
    proc: KernelView
    bpf_files: list[FileView]
    proc_files: list[FileView]
    bpf_areas: list[VmaView]
    proc_areas: list[VmaView]


@contextmanager
def stopped(pid: int) -> Iterator[tuple[Process, ProcObserver]]:
    """Freeze a process the way that a snapshot does; let it go afterwards."""
    process = target.examine(pid, Options(no_bpf=True, leave_running=True))
    observer = ProcObserver(process.pidfd, lambda: process.stops if process.is_frozen else ())
    try:
        look = observer.observe_threads(pid)
        process.before_views = process.thread_views = look.threads
        with freeze.Frozen(process, STOP_S) as frozen:
            frozen.stop()
            yield process, observer
    finally:
        os.close(process.pidfd)


@pytest.fixture(scope="module")
def both(build: Build) -> Iterator[Both]:
    with running_state(build) as state, open_observer() as bpf:
        bpf.prepare()
        with stopped(state.pid) as (process, proc):
            tid = process.living_tid
            yield Both(
                bpf.observe_threads(state.pid),
                proc.observe_threads(state.pid),
                bpf.observe_files(tid),
                proc.observe_files(tid),
                bpf.observe_areas(tid),
                proc.observe_areas(tid),
            )


def list_differences(seen: Any, other: Any, unseen: set[str], skip: set[str]) -> list[str]:
    """Compare two views of one type; ``unseen`` must be None in ``other``."""
    lines = []
    for name in seen.__struct_fields__:
        ours, theirs = getattr(seen, name), getattr(other, name)
        if name in unseen:
            if theirs is not None:
                lines.append(f"{name}: is seen: {theirs}")
        elif name not in skip | VOLATILE | IDENTITIES and ours != theirs:
            lines.append(f"{name}: BPF {ours}, without it {theirs}")
    return lines


def group(values: Sequence[int | None]) -> list[int]:
    """Number identities in the order in which they come, so that partitions can be compared."""
    known: dict[int | None, int] = {}
    return [known.setdefault(value, len(known)) for value in values]


def test_threads_are_equal(both: Both) -> None:
    assert set(both.bpf.threads) == set(both.proc.threads)
    skip = {"saved_sigmask", "restart", "namespaces", "tsc_faults", "cpuid_faults"}
    for tid, thread in both.bpf.threads.items():
        other = both.proc.threads[tid]
        assert list_differences(thread, other, UNSEEN_THREAD, skip) == [], tid
        assert thread.namespaces is not None
        assert msgspec.structs.replace(thread.namespaces, count=None) == other.namespaces
        assert (other.tsc_faults, other.cpuid_faults) == (False, False)
        if thread.restore_sigmask:
            assert thread.saved_sigmask == other.saved_sigmask
    assert any(thread.restore_sigmask for thread in both.proc.threads.values())
    for name in ("mm", "files", "fs", "sighand", "signal", "nsproxy"):
        ids = [[getattr(view.threads[tid], name) for tid in both.bpf.threads] for view in both[:2]]
        assert group(ids[0]) == group(ids[1]), name


def test_restart_blocks_are_rebuilt(both: Both) -> None:
    """All but that of a sleep on a CPU clock; times are those of /proc/timer_list, or estimated."""
    kinds = set()
    for tid, thread in both.bpf.threads.items():
        if thread.restart is None:
            continue
        other: Any = both.proc.threads[tid].restart
        kinds.add(type(thread.restart).__name__)
        if type(thread.restart).__name__ == "CpuSleepRestart":
            assert other is None
            assert any(gap.startswith(f"tid {tid}:") for gap in both.proc.gaps)
            continue
        assert type(thread.restart) is type(other)
        for name in set(thread.restart.__struct_fields__) - {"expires_ns"}:
            assert getattr(thread.restart, name) == getattr(other, name), (tid, name)
        assert abs(thread.restart.expires_ns - other.expires_ns) < CLOSE_NS  # type: ignore[union-attr,operator]
    assert {"NanosleepRestart", "FutexRestart", "PollRestart", "CpuSleepRestart"} <= kinds


def test_process_is_equal(both: Both) -> None:
    seen, other = both.bpf.process, both.proc.process
    assert seen is not None and other is not None
    skip = {"posix_timers", *ITIMERS}
    assert list_differences(seen, other, UNSEEN_PROCESS, skip) == []
    for name, close_ns in ITIMERS.items():
        ours, theirs = getattr(seen, name), getattr(other, name)
        assert ours.interval_ns == theirs.interval_ns > 0, name
        assert abs(ours.value_ns - theirs.value_ns) < close_ns, name


def test_posix_timers_are_equal(both: Both) -> None:
    assert both.bpf.process is not None and both.proc.process is not None
    assert both.bpf.process.posix_timers and both.proc.process.posix_timers
    theirs = {timer.timer_id: timer for timer in both.proc.process.posix_timers}
    assert len(theirs) == len(both.bpf.process.posix_timers)
    for timer in both.bpf.process.posix_timers:
        other = theirs[timer.timer_id]
        for name in ("clockid", "notify", "signo", "sigval", "notify_tid", "interval_ns"):
            assert getattr(timer, name) == getattr(other, name), (timer.timer_id, name)
        assert timer.signal_queued == other.signal_queued
        check_timer_times(timer, other)


def check_timer_times(timer: PosixTimer, other: PosixTimer) -> None:
    assert (timer.value_ns is None) == (other.value_ns is None), timer.timer_id
    if timer.value_ns is not None and other.value_ns is not None:
        assert abs(timer.value_ns - other.value_ns) < 10 * CLOSE_NS
    if timer.expires_ns is not None and other.expires_ns is not None and not timer.signal_queued:
        assert abs(timer.expires_ns - other.expires_ns) < CLOSE_NS, timer.timer_id


def test_memory_fields_are_equal(both: Both) -> None:
    assert both.bpf.mm is not None and both.proc.mm is not None
    assert list_differences(both.bpf.mm, both.proc.mm, UNSEEN_MM, set()) == []
    assert both.proc.mm.ldt and both.proc.mm.membarrier_state and both.proc.mm.aio_contexts


def test_files_are_equal(both: Both) -> None:
    assert [file.fd for file in both.bpf_files] == [file.fd for file in both.proc_files]
    for file, other in zip(both.bpf_files, both.proc_files, strict=True):
        skip = {"f_op", "f_flags", "has_locks", "mode"}
        assert list_differences(file, other, UNSEEN_FILE, skip) == [], file.fd
        assert other.f_op in ("", file.f_op)
        assert (file.f_flags ^ other.f_flags) & ~os.O_CLOEXEC == 0
        assert not other.has_locks or file.has_locks
        typeless = file.fs_type in ("anon_inodefs", "pidfs")  # stat shows them without a type
        assert other.mode in (file.mode, file.mode & 0o7777 if typeless else file.mode)
    for name in ("file", "inode"):
        ids = [[getattr(file, name) for file in files] for files in both[2:4]]
        assert group(ids[0]) == group(ids[1]), name
    symbols = {file.f_op for file in both.proc_files}
    assert {"pipefifo_fops", "eventfd_fops", "eventpoll_fops", "socket_file_ops"} <= symbols


def test_areas_are_equal(both: Both) -> None:
    theirs = {area.start: area for area in both.proc_areas}
    for area in both.bpf_areas:
        other = theirs.pop(area.start)
        names = ("end", "dev", "ino", "anon_name", "has_policy", "has_userfaultfd")
        assert all(getattr(area, name) == getattr(other, name) for name in names), hex(area.start)
        assert area.flags & 0xFF == other.flags & 0xFF
    assert not {area.start for area in theirs.values()} - {0xFFFF_FFFF_FF60_0000}


def test_gaps_say_what_they_cost(both: Both) -> None:
    assert both.proc.source == "syscalls"
    assert set(GAPS) <= set(both.proc.gaps)
    assert all(": " in gap for gap in both.proc.gaps)


class Snap(NamedTuple):
    """What a thread must not notice to have changed."""

    regs: bytes
    xstate: bytes
    mask: int
    stack: bytes
    rseq: bytes


def take(process: Process) -> dict[int, Snap]:
    """Read registers, mask, stack and restartable sequence of every stopped thread."""
    found = {}
    with open(process.path("mem"), "rb", buffering=0) as memory:
        for tid in process.tids:
            regs = ptrace.get_regset(tid, ptrace.NT_PRSTATUS, NT_PRSTATUS_BYTES)
            rsp = int.from_bytes(regs[19 * 8 : 20 * 8], "little")
            request = ptrace.Request.GET_RSEQ_CONFIGURATION
            config = ptrace.get_record(tid, request, 24)
            area, size = (int.from_bytes(config[at : at + 8], "little") for at in (0, 8))
            size &= 0xFFFF_FFFF
            found[tid] = Snap(
                regs,
                ptrace.get_regset(tid, ptrace.NT_X86_XSTATE, XSTATE_ROOM),
                ptrace.get_sigmask(tid),
                read_around(memory.fileno(), rsp, range(area, area + size)),
                os.pread(memory.fileno(), 8, area + 8),
            )
    return found


def read_around(memory_fd: int, rsp: int, apart: range) -> bytes:
    """Read a stack without the bytes ``apart``, in which the kernel keeps the CPU's number."""
    parts = []
    for page in range(rsp - STACK_BYTES & -4096, rsp + STACK_BYTES, 4096):
        try:
            content = bytearray(os.pread(memory_fd, 4096, page))
        except OSError:
            continue  # The stack has an end.
        for address in range(max(page, apart.start), min(page + 4096, apart.stop)):
            content[address - page] = 0
        parts.append(bytes(content))
    return b"".join(parts)


def test_stopped_threads_are_as_before(build: Build) -> None:
    """Registers, restart codes, masks and stacks are the same after each of many looks."""
    with Target(Case("no_bpf_waits"), build) as running:
        running.start()
        assert running.wait_ready()
        results = set()
        for _ in range(ROUNDS):
            with stopped(running.pid) as (process, observer):
                before = take(process)
                view = observer.observe_threads(running.pid)
                process.thread_views = view.threads
                assert view.process is not None and view.process.sigactions is not None
                after = take(process)
                for tid, snap in before.items():
                    changed = [
                        name
                        for name in Snap._fields
                        if getattr(snap, name) != getattr(after[tid], name)
                    ]
                    assert changed == [], f"tid {tid} {process.stops[tid].regs}"
                results |= {process.stops[tid].regs.rax for tid in before}
        # The looks have met calls of every class.
        assert {2**64 - 516, 2**64 - 512, 2**64 - 4} <= results
        running.go(Mode.LEFT_RUNNING)
        outcome = running.wait_result()
        assert outcome.verdict == "PASS", outcome.text


def test_snapshots_that_leave_it_running(build: Build) -> None:
    """No EINTR, no early end, whatever the number of snapshots."""
    with Target(Case("no_bpf_waits"), build) as running:
        running.start()
        assert running.wait_ready()
        for _ in range(ROUNDS):
            running.snapshot("--no-bpf", "--leave-running")
        running.go(Mode.LEFT_RUNNING)
        outcome = running.wait_result()
        assert outcome.verdict == "PASS", outcome.text


class WithoutBpf(Target):
    """A target whose snapshots are taken without BPF."""

    def snapshot(self, *options: str) -> None:
        super().snapshot("--no-bpf", *options)


RESTORED = (
    "no_bpf_waits",
    "many_threads",
    "altstack",
    "dispositions",
    "tls_entries",
    "itimers",
    "rseq_section",
    "seccomp_strict",
    "seccomp_filter",
    "user_dispatch",
    "creds_securebits",
    "clear_child_tid",
    "membarrier_reg",
    "leader_exited",
    "fd_table",
    "unix_pairs",
)


@pytest.mark.parametrize("program", RESTORED)
def test_restored(program: str, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.live.harness.Target", WithoutBpf)
    outcome = run_case(Case(program), Mode.RESTORED, build)
    if outcome.verdict == "SKIP":
        pytest.skip("not run: " + outcome.text.removeprefix("SKIP: ").strip())
    assert outcome.verdict == "PASS", outcome.text


def test_snapshot_lists_what_it_could_not_see(build: Build) -> None:
    with Target(Case("thread_names"), build) as running:
        running.start()
        assert running.wait_ready()
        path = str(running.image)
        told = running.tool(
            "snapshot", str(running.pid), "-o", path, "--no-bpf", "--leave-running"
        ).stderr
        for gap in GAPS:
            assert gap in told

"""One look at all threads of a process without BPF: everything that touches the target."""

from __future__ import annotations

import errno
import os
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.arch.x86_64.decode import CALL_SIZE, find_call
from ckpt.arch.x86_64.regs import NT_PRSTATUS, REGS_SIZE, X86Regs, parse_regs, signed
from ckpt.arch.x86_64.restart import ERESTART_RESTARTBLOCK
from ckpt.arch.x86_64.timeouts import read_args
from ckpt.host import ptrace
from ckpt.host.kernel_view import BlockedTimer, PosixTimer, RestartBlock, Rseq
from ckpt.host.proc_asked import ProcessAnswers, ThreadAnswers, ask_process, ask_thread
from ckpt.host.proc_process import ListedTimer, build_timer, parse_timers, read_process
from ckpt.host.proc_tasks import Sharing, Task, parse_task, read_optional, read_task
from ckpt.host.proc_waits import (
    CLOCKS,
    Timers,
    Wait,
    build_restart,
    build_wait,
    clock_offset_ns,
    parse_call,
    read_duration_ns,
    read_timers,
)
from ckpt.host.remote_call import RemoteCaller, RemoteCallError
from ckpt.host.remote_place import CallPlace, find_place, peek
from ckpt.host.watch import held

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SYS_RESTART_SYSCALL: Final = 219
_SI_TIMER: Final = -2
_SIGINFO: Final = struct.Struct("<iiiii")
"""The head of siginfo_t: si_signo, si_errno, si_code, padding, si_tid
(include/uapi/asm-generic/siginfo.h)."""
_RSEQ: Final = struct.Struct("<QIIII")
"""struct ptrace_rseq_configuration, `include/uapi/linux/ptrace.h`."""
_POSIX_TIMER: Final = b", posix_timer_fn,"
_UNSEEN: Final = "its alternate stack, parent-death signal, clear_child_tid and securebits"


class Look(NamedTuple):
    """A blocked thread while the target ran: enough to know the same wait again."""

    wait: Wait
    timer: BlockedTimer | None
    nvcsw: int


class Stopped(NamedTuple):
    """What a stopped thread adds to its /proc files."""

    regs: X86Regs
    mask: int
    rseq: Rseq | None
    restart: RestartBlock | None


def read_tasks(tgid: int) -> Iterator[Task]:
    """Yield every thread, the leader first; those that end meanwhile are left out."""
    try:
        names = os.listdir(f"/proc/{tgid}/task")
    except FileNotFoundError:
        return
    for name in sorted(names, key=lambda name: (int(name) != tgid, int(name))):
        try:
            yield parse_task(read_task(tgid, int(name)))
        except (FileNotFoundError, ProcessLookupError):
            continue


class Reading:
    """What one look found. `look` or `ask` completes it."""

    def __init__(
        self, tgid: int, tasks: dict[int, Task], pidfd: int, options: int, as_of_ns: int
    ) -> None:
        self.tgid = tgid
        self.tasks = tasks
        self.living = [tid for tid, task in tasks.items() if not task.exit_state]
        self.looks: dict[int, Look] = {}
        self.stops: dict[int, Stopped] = {}
        self.thread_answers: dict[int, ThreadAnswers] = {}
        self.answers: ProcessAnswers | None = None
        self.timers: tuple[PosixTimer, ...] | None = None
        self.maps: bytes = b""
        sharing = Sharing()
        self.shared = {tid: found for tid in self.living if (found := sharing.of(tid)) is not None}
        self.gaps: list[str] = []
        self._pidfd = pidfd
        self._options = options
        self._as_of_ns = as_of_ns
        through = self.living[0] if self.living else tgid
        self.process = read_process(tgid, through) if self.living else None
        self._folder = f"/proc/{tgid}/task/{through}/"

    def look(self) -> dict[int, Look]:
        """See what each thread is blocked in, and until when; nothing touches the target."""
        if not self.living:
            return {}
        timers = Timers()
        memory = os.open(self._folder + "mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for tid in self.living:
                found = parse_call(self.tasks[tid].text.call)
                if found is not None and found[0] >= 0:
                    wait = build_wait(*found, memory)
                    timer = self._find_timer(self.tasks[tid], wait, memory, timers)
                    nvcsw = self.tasks[tid].number(b"voluntary_ctxt_switches")
                    self.looks[tid] = Look(wait, timer, nvcsw)
        finally:
            os.close(memory)
        return self.looks

    def _find_timer(
        self, task: Task, wait: Wait, memory: int, timers: Timers
    ) -> BlockedTimer | None:
        """Return when a wait with a relative timeout ends; an absolute one needs no help."""
        timeout, sleep = wait.timeout, task.sleep
        if timeout.absolute or timeout.clock not in CLOCKS or sleep is None:
            return None
        duration_ns = read_duration_ns(wait, memory, self._pidfd)
        if duration_ns is None:
            return None
        began_ns = timers.began_ns(sleep)
        return None if began_ns is None else timers.find_timer(timeout, began_ns + duration_ns)

    def ask(self, stops: Sequence[int], looks: Mapping[int, Look]) -> None:
        """Read the registers of stopped threads, then let each answer its questions."""
        self.maps = read_optional(self._folder + "maps")
        memory = os.open(self._folder + "mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for tid in stops:
                self.stops[tid] = self._read_stopped(tid, memory, looks.get(tid))
        finally:
            os.close(memory)
        rips = {stop.regs.rip for stop in self.stops.values()}
        likely = [rip - back for rip in sorted(rips) for back in (CALL_SIZE, 0)]
        place = find_place(self.tgid, stops[0], self.maps, likely)
        if place is None:
            self.gaps.append("the program has no syscall instruction: no thread could be asked")
            return
        self._ask_all(stops, place)

    def _ask_all(self, stops: Sequence[int], place: CallPlace) -> None:
        """Ask each thread; the first that answers speaks for the process, one without seccomp."""
        listed = parse_timers(self.process.timers) if self.process else []
        filtered = {tid: bool(self.tasks[tid].number(b"Seccomp")) for tid in stops}
        for tid in sorted(stops, key=lambda tid: filtered[tid]):
            try:
                caller = RemoteCaller(
                    self.tgid, tid, place, in_seccomp=filtered[tid], options=self._options
                )
                with held(), caller:
                    self.thread_answers[tid] = ask_thread(caller)
                    if self.answers is None:
                        ids = [timer.timer_id for timer in listed]
                        self.answers = ask_process(caller, ids, self._as_of_ns)
                        self._build_timers(listed, stops)
            except RemoteCallError as error:
                self.gaps.append(f"tid {tid}: {error.what}: {_UNSEEN} are taken as default")

    def _build_timers(self, listed: Sequence[ListedTimer], stops: Sequence[int]) -> None:
        assert self.answers is not None
        queued = read_queued_timers(stops) if listed else set()
        dates = [soft for soft, _ in read_timers(_POSIX_TIMER)] if listed else []
        self.timers = tuple(
            build_timer(
                timer,
                self.answers.timers[timer.timer_id],
                is_queued=timer.timer_id in queued,
                as_of_ns=self._as_of_ns,
                dates=dates,
            )
            for timer in listed
        )

    def _read_stopped(self, tid: int, memory: int, look: Look | None) -> Stopped:
        regs = parse_regs(ptrace.get_regset(tid, NT_PRSTATUS, REGS_SIZE))
        block = None
        if signed(regs.rax) == -ERESTART_RESTARTBLOCK and regs.orig_rax != SYS_RESTART_SYSCALL:
            block = self._rebuild_restart(tid, regs, memory, look)
        return Stopped(regs, ptrace.get_sigmask(tid), read_rseq(tid), block)

    def _rebuild_restart(
        self, tid: int, regs: X86Regs, memory: int, look: Look | None
    ) -> RestartBlock | None:
        """Rebuild what the kernel keeps for a -516 thread, from the call that it made."""
        entry = find_call(peek(memory, regs.rip - CALL_SIZE, CALL_SIZE))
        nr = regs.orig_rax & 0xFFFF_FFFF
        wait = build_wait(nr, read_args(regs, entry), regs.rsp, regs.rip, memory)
        value_ns = read_duration_ns(wait, memory, self._pidfd)
        block = build_restart(wait, value_ns, self._expiry_ns(tid, wait, value_ns, look))
        if block is None:
            self.gaps.append(f"tid {tid}: what its sleep ends with was not seen: EINTR if restored")
        return block

    def _expiry_ns(
        self, tid: int, wait: Wait, value_ns: int | None, look: Look | None
    ) -> int | None:
        """Return when a wait ends, on its clock; when it was not seen to begin, the latest."""
        clock = wait.timeout.clock
        if value_ns is None:
            return None
        if wait.timeout.absolute:
            return value_ns - self._clock_shift_ns(clock)
        if look is not None and look.timer is not None and self._is_same(tid, wait, look):
            # A sleep's restart_block has the time with its slack, the others without.
            return look.timer.latest_ns if wait.is_sleep else look.timer.expires_ns
        return time.monotonic_ns() + clock_offset_ns(clock) + value_ns

    def _is_same(self, tid: int, wait: Wait, look: Look) -> bool:
        """Tell whether a thread has only once left its CPU since: for our stop."""
        switches = self.tasks[tid].number(b"voluntary_ctxt_switches") - look.nvcsw
        place = (wait.nr, wait.sp, wait.ip)
        return place == (look.wait.nr, look.wait.sp, look.wait.ip) and switches <= 1

    def _clock_shift_ns(self, clock: int) -> int:
        """Return the target's clock minus ours: its time namespace."""
        name = {time.CLOCK_MONOTONIC: b"monotonic", time.CLOCK_BOOTTIME: b"boottime"}.get(clock)
        return parse_timens(read_optional(self._folder + "timens_offsets")).get(name or b"", 0)


def parse_timens(text: bytes) -> dict[bytes, int]:
    """Parse /proc/PID/timens_offsets: a clock, seconds and nanoseconds a line."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: int(row[1]) * 1_000_000_000 + int(row[2]) for row in rows if len(row) == 3}


def read_rseq(tid: int) -> Rseq | None:
    """Return the registration of a stopped thread; None where the kernel cannot be asked."""
    try:
        request = ptrace.Request.GET_RSEQ_CONFIGURATION
        address, length, signature, _, _ = _RSEQ.unpack(ptrace.get_record(tid, request, _RSEQ.size))
    except OSError as error:
        if error.errno == errno.EIO:
            return None
        raise
    return Rseq(address, length if address else 0, signature if address else 0)


def read_queued_timers(stops: Sequence[int]) -> set[int]:
    """Return the timers whose signals are queued, for the process or one of its threads."""
    infos = ptrace.peek_siginfo(stops[0], shared=True)
    for tid in stops:
        infos += ptrace.peek_siginfo(tid, shared=False)
    heads = [_SIGINFO.unpack_from(info) for info in infos]
    return {head[4] for head in heads if head[2] == _SI_TIMER}

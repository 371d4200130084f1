"""Bring every thread of a process to a ptrace stop, prove that none was missed, and let go again.

The order, and what can go wrong in it:
1. SEIZE and INTERRUPT every thread that /proc lists. SEIZE has no effect that the target can see.
   A thread that ends meanwhile gives ESRCH and is forgotten.
2. Wait for each. A thread may report a signal first (the signal is already dequeued: it is handed
   back with PTRACE_CONT and another INTERRUPT), a group stop, or its end.
3. A call of the -EINTR class has lost its wait by our stop. The thread is rewound to the call in
   the step that sees it stop: if we are killed later, it just makes its call again.
4. List the threads again until there is nobody new. A stopped thread makes no threads.
If we die, the kernel detaches everything, and every thread goes on where it was.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

from ckpt import reissue
from ckpt.arch.x86_64 import restart
from ckpt.arch.x86_64.decode import CALL_SIZE
from ckpt.arch.x86_64.regs import NT_PRSTATUS, REGS_SIZE, X86Regs, encode_regs, parse_regs, signed
from ckpt.arch.x86_64.timeouts import Where
from ckpt.errors import FreezeError
from ckpt.host import ptrace, sleepers
from ckpt.host.watch import check, held

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.objects.base import Process

_MAY_BE_LOST: Final = frozenset((-4, -514))
"""-EINTR and -ERESTARTNOHAND: results by which a call may have lost its wait."""
_DENIALS: Final = 20
"""So often a thread that cannot be seized is tried again."""
_JOB_STOPS: Final = frozenset((signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU))


class Thread:
    """One thread that we trace. `regs` are those of the stop, before anything was rewound."""

    def __init__(self, tid: int) -> None:
        self.tid = tid
        self.is_stopped = False
        self.regs: X86Regs = _NO_REGS
        self.handled_signal = False
        """A signal with a handler is pending, or a job stop came: -EINTR is owed."""
        self.strategy: restart.Strategy | None = None
        """How an interrupted call goes on, if its result told of one."""
        self.reissue: restart.Strategy | None = None
        """Set when the thread was rewound: it makes its call again when it goes on."""


_NO_REGS: Final = parse_regs(bytes(REGS_SIZE))


class Frozen:
    """All threads of one process: `stop` them in a `with` block, whose end lets go of them.

    Nothing is stopped before `stop`, so no exception can come between the stop and the block.
    """

    def __init__(self, process: Process, timeout_s: float) -> None:
        self.process = process
        self.threads: dict[int, Thread] = {}
        self.timeout_s = timeout_s
        self.interrupted_at_ns = 0
        self._denied = 0

    def __enter__(self) -> Frozen:
        return self

    def __exit__(self, *exc: object) -> None:
        self.thaw()

    def stop(self) -> None:
        """Stop every thread.

        Raises:
            FreezeError: it could not be done in time, or the process changed meanwhile.
        """
        with held():
            self._stop_all()

    def _stop_all(self) -> None:
        deadline = time.monotonic() + self.timeout_s
        self.interrupted_at_ns = time.monotonic_ns()
        while new := [tid for tid in list_tids(self.process.tgid) if tid not in self.threads]:
            for tid in new:
                self._attach(tid)
            self._wait_all(deadline)
            if time.monotonic() > deadline:
                raise FreezeError(
                    f"makes threads faster than they can be stopped: {self.timeout_s:g} s are over",
                    where=self._where(),
                    hint="raise --timeout",
                )
        if not self.threads:
            raise FreezeError("ended while it was being stopped", where=self._where())
        self._publish()

    def _where(self) -> str:
        return f"process {self.process.tgid}"

    def _publish(self) -> None:
        process = self.process
        process.tids = list(self.threads)
        process.stops = dict(self.threads)
        process.leader_alive = process.tgid in self.threads
        process.living_tid = process.tids[0]
        process.is_frozen = True

    def _attach(self, tid: int) -> None:
        try:
            ptrace.seize(tid, int(ptrace.Option.TRACESYSGOOD | ptrace.Option.TRACEEXEC))
            ptrace.interrupt(tid)
        except ProcessLookupError:
            return
        except PermissionError as error:
            if is_zombie(self.process.tgid, tid):
                return
            tracer = _status_field(self.process.tgid, tid, b"TracerPid").decode()
            if tracer == str(os.getpid()):
                # A thread of ours has taken the main thread's number by execve.
                raise self._executed() from error
            if int(tracer or 0):
                what, hint = f"is traced by process {tracer}", "end the debugger first"
                raise FreezeError(what, where=f"tid {tid}", hint=hint) from error
            self._denied += 1
            if self._denied < _DENIALS:
                # A thread that is just ending cannot be seized, and is not shown as a zombie yet.
                time.sleep(0.001)
                return
            what, hint = "may not be stopped", "a security module may forbid it"
            raise FreezeError(what, where=f"tid {tid}", errno=error.errno, hint=hint) from error
        self.threads[tid] = Thread(tid)

    def _wait_all(self, deadline: float) -> None:
        waiting = [thread for thread in self.threads.values() if not thread.is_stopped]
        pause_s = 0.0
        while waiting:
            left = [thread for thread in waiting if not self._poll(thread)]
            if len(left) == len(waiting):
                if time.monotonic() > deadline:
                    raise self._stuck(left)
                check()
                time.sleep(pause_s)
                pause_s = min(0.002, pause_s + 0.00005)
            waiting = left

    def _stuck(self, left: list[Thread]) -> FreezeError:
        states = [f"{thread.tid} ({read_state(self.process.tgid, thread.tid)})" for thread in left]
        return FreezeError(
            f"threads did not stop within {self.timeout_s:g} s: {', '.join(states[:20])}",
            where=self._where(),
            hint="state D waits in the kernel (a vfork child, a dead network mount): "
            "let that end, or raise --timeout",
        )

    def _executed(self) -> FreezeError:
        what, hint = "executed another program while it was being stopped", "run the snapshot again"
        return FreezeError(what, where=self._where(), hint=hint)

    def _poll(self, thread: Thread) -> bool:
        """Handle what `thread` reports, if anything; True when it needs no more waiting."""
        try:
            stop = ptrace.wait_stop(thread.tid, block=False)
        except ChildProcessError:
            # Another thread executed a program: this one is gone, or goes on as the leader.
            stop = ptrace.Stop(thread.tid, 0, 0, 0)
        if stop is None:
            return False
        if stop.exit_status is not None:
            del self.threads[thread.tid]
            return True
        if stop.event == ptrace.Event.EXEC:
            raise self._executed()
        if not stop.is_trap:
            ptrace.interrupt(thread.tid)
            ptrace.resume(thread.tid, 0 if stop.is_syscall or stop.event else stop.signo)
            return False
        if stop.signo in _JOB_STOPS:
            # A job stop ends such calls by itself: their EINTR is the program's own.
            self.process.stopped_by = stop.signo
            thread.handled_signal = True
        thread.is_stopped = True
        self._take_regs(thread)
        return True

    def _take_regs(self, thread: Thread) -> None:
        """Read the registers, and rewind a call that our stop ended with -EINTR."""
        regs = parse_regs(ptrace.get_regset(thread.tid, NT_PRSTATUS, REGS_SIZE))
        thread.regs = regs
        remainder = self.process.remainders.get(thread.tid)
        if remainder is not None and signed(regs.rax) == -restart.ERESTART_RESTARTBLOCK:
            with open(self.process.path("mem", thread.tid), "r+b", buffering=0) as memory:
                sleepers.put_back(memory.fileno(), remainder, regs.orig_rax, regs.rsp)
        if signed(regs.rax) not in _MAY_BE_LOST or signed(regs.orig_rax) < 0:
            return
        thread.handled_signal |= has_handled_signal(self.process.tgid, thread.tid)
        strategy = restart.classify(
            regs, self._code_before(thread), handled_signal_pending=thread.handled_signal
        )
        thread.strategy = strategy
        if strategy.kind is restart.Kind.REISSUE:
            rewound = restart.build_reissue_regs(regs)
            ptrace.set_regset(thread.tid, NT_PRSTATUS, encode_regs(rewound))
            thread.reissue = strategy

    def _code_before(self, thread: Thread) -> bytes:
        """Return the instruction that the thread is behind; empty when it cannot be read."""
        fd = os.open(self.process.path("mem", thread.tid), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, CALL_SIZE, thread.regs.rip - CALL_SIZE)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def thaw(self) -> None:
        """Let every thread run on, those first that make their interrupted call again."""
        with held():
            self._thaw()

    def _thaw(self) -> None:
        threads, self.threads = self.threads, {}
        self.process.is_frozen = False
        stopped = [
            thread for thread in threads.values() if thread.is_stopped or self._reach_stop(thread)
        ]
        reissue.refresh_remaining(
            self.process.tgid,
            ((thread, self.process.wait_deadline_ns(thread.tid)) for thread in stopped),
        )
        for _ in reissue.let_go(
            self.process.tgid,
            self.process.pidfd,
            [thread.tid for thread in stopped],
            list(self._reentries(stopped)),
        ):
            pass

    def _reentries(self, threads: Iterable[Thread]) -> Iterator[reissue.Reentry]:
        """Yield the calls that are made again and whose deadline is known."""
        for thread in threads:
            if thread.reissue is None or thread.reissue.timeout.where is Where.NONE:
                continue
            deadline = self.process.wait_deadline_ns(thread.tid)
            if deadline is not None:
                yield reissue.Reentry(
                    thread.tid,
                    restart.build_reissue_regs(thread.regs),
                    thread.reissue.nr,
                    thread.reissue.entry,
                    thread.reissue.timeout,
                    deadline,
                )

    def _reach_stop(self, thread: Thread) -> bool:
        """Wait for a thread that was never seen to stop: only a stopped one can be detached.

        One that stays in state D is left seized; the kernel detaches it when we end.
        """
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            stop = ptrace.wait_stop(thread.tid, block=False)
            if stop is not None:
                if stop.exit_status is None and not stop.is_trap and not stop.event:
                    ptrace.detach(thread.tid, stop.signo & 0x7F)
                    return False
                if stop.exit_status is None:
                    self._take_regs(thread)
                return stop.exit_status is None
            time.sleep(0.0005)
        return False

    def kill(self) -> None:
        """End the process, and wait until all its threads are gone."""
        with held():
            self._kill()

    def _kill(self) -> None:
        threads, self.threads = self.threads, {}
        signal.pidfd_send_signal(self.process.pidfd, signal.SIGKILL)
        for tid in sorted(threads, key=lambda tid: tid == self.process.tgid):
            try:
                while ptrace.wait_stop(tid).exit_status is None:  # type: ignore[union-attr]
                    pass
            except ChildProcessError:
                continue


def list_tids(tgid: int) -> list[int]:
    """Return the threads of a process that can still run, in the kernel's order."""
    try:
        tids = [int(name) for name in os.listdir(f"/proc/{tgid}/task")]
    except FileNotFoundError:
        return []
    if tgid in tids and is_zombie(tgid, tgid):
        tids.remove(tgid)
    return tids


def is_zombie(tgid: int, tid: int) -> bool:
    """Tell whether a thread has exited (or is gone)."""
    return read_state(tgid, tid)[:1] in ("Z", "X", "")


def read_state(tgid: int, tid: int) -> str:
    """Return the state of a thread as /proc shows it: `D (disk sleep)`; empty when it is gone."""
    return _status_field(tgid, tid, b"State").decode()


def _status_field(tgid: int, tid: int, name: bytes) -> bytes:
    try:
        with open(f"/proc/{tgid}/task/{tid}/status", "rb") as status:
            for line in status:
                if line.startswith(name + b":"):
                    return line.split(b":", 1)[1].strip()
    except (FileNotFoundError, ProcessLookupError):
        pass
    return b""


def has_handled_signal(tgid: int, tid: int) -> bool:
    """Tell whether a signal that has a handler is pending for the thread and not blocked."""
    wanted = {b"SigPnd": 0, b"ShdPnd": 0, b"SigBlk": 0, b"SigCgt": 0}
    with open(f"/proc/{tgid}/task/{tid}/status", "rb") as status:
        for line in status:
            name, _, value = line.partition(b":")
            if name in wanted:
                wanted[name] = int(value, 16)
    pending = wanted[b"SigPnd"] | wanted[b"ShdPnd"]
    return bool(pending & wanted[b"SigCgt"] & ~wanted[b"SigBlk"])

"""The restorer: carries out the steps of a plan on the seed, and commits.

Everything that it creates dies with it (EXITKILL) until `commit`.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import msgspec

from ckpt import reissue
from ckpt.arch.x86_64 import machine_code
from ckpt.arch.x86_64.regs import X86Regs, encode_regs, parse_regs, signed, unsigned
from ckpt.arch.x86_64.restart import Kind
from ckpt.errors import CkptError, RestoreError
from ckpt.host import ptrace, seed, standstill, trap
from ckpt.host.clocks import clocks_ahead
from ckpt.host.watch import held
from ckpt.objects import modules
from ckpt.objects.interrupted import final_regs
from ckpt.objects.maps_text import MapsLine, parse_maps
from ckpt.objects.steps import Blob, Call, Entry, Executor, Expect, Step
from ckpt.objects.task import ThreadRecord
from ckpt.tape import CODE_BYTES, DATA_BYTES, REGION_BYTES, Player, assemble, describe_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckpt.arch.x86_64.rearm import Rearm
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import Options, Record, Records
    from ckpt.plan import Plan
    from ckpt.tape import OnCall

_SYS_MUNMAP, _SYS_DUP3, _SYS_CLOSE_RANGE, _SYS_EXIT = 11, 292, 436, 60
_PAGE = 4096
_TIMESPEC_BYTES = 16
_LEAD_NS = 4_000_000
_LEAD_NS_A_STEP = 60_000
"""Measured from the entry into the time namespace to the commit, on a slow machine."""
_LOWEST = 0x10000
_HIGHEST = (1 << 47) - (1 << 24)
_ALL_SIGNALS = (1 << 64) - 1
_ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")


EXIT_CALL = Call(_SYS_EXIT, (0,), expect=Expect.ANY)
"""How a main thread ends that its process had outlived."""


def unmap_call(region: int) -> Call:
    """Return the call that unmaps the tape region."""
    return Call(_SYS_MUNMAP, (region, REGION_BYTES))


def used_ranges(records: Records) -> list[tuple[int, int]]:
    """Return the half-open spans of addresses that the target uses, by address."""
    return sorted(
        span
        for module in modules()
        if hasattr(module, "used_ranges")
        for span in module.used_ranges(records)
    )


def find_region(used: Sequence[tuple[int, int]]) -> int:
    """Return where the tape goes: the first place with room for it and the seed's page."""
    return find_free(REGION_BYTES + _PAGE, used)


def find_free(size: int, used: Sequence[tuple[int, int]]) -> int:
    """Return the first address where `size` bytes are in none of the spans, which are sorted.

    Raises:
        RestoreError: there is none.
    """
    start = _LOWEST
    for low, high in used:
        if low - start >= size:
            return start
        start = max(start, high)
    if _HIGHEST - start >= size:
        return start
    raise RestoreError("the target leaves no room in its address space for the tape")


def _ignore_call(_tid: int, _call: Call, _result: int | None) -> None:
    pass


class Restorer:
    """One process being restored."""

    def __init__(
        self, image: ImageFile, records: Records, plan: Plan, on_call: OnCall | None = None
    ) -> None:
        """`on_call` is told every system call that the process is made to make."""
        self.image = image
        self.image_fd = image.fd
        self.records = records
        self.plan = plan
        self.root_tid = records.processes[0].tgid
        self.fds: dict[str, int] = {}
        self.undo: list[Callable[[], object]] = []
        """What to take back if the restore fails, the last one first."""
        self._socket: socket.socket | None = None
        self._player: Player | None = None
        self._results: dict[int, int] = {}
        self._clock_goal_ns: int | None = None
        self._clock_ahead_ns: int | None = None
        self._used = used_ranges(records)
        self._traced: list[int] = []
        self._on_call = on_call or _ignore_call

    def __enter__(self) -> Restorer:
        return self

    def __exit__(self, *exc: object) -> None:
        self._kill()
        while self.undo:
            self.undo.pop()()
        for key in list(self.fds):
            self.close_fd(key)
        if self._socket is not None:
            self._socket.close()
        if self._player is not None:
            self._player.close()

    @property
    def _tape_player(self) -> Player:
        assert self._player is not None, "the root task was not started"
        return self._player

    @property
    def tids(self) -> list[int]:
        """Every thread that exists, the root first."""
        return list(self._traced)

    # Creation

    def start(self, *, detach: bool = False, apart: bool = False) -> None:
        """Create the root task, with its pid, and give it a tape and a socket to us.

        With `detach` it must not notice our end: no child of ours if that would send it a signal.
        `apart`: it must stay stopped behind our end, of which the kernel makes SIGCONT for a
        stopped process group that nobody of its session looks after (`kill_orphaned_pgrp`).
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket = ours
        region = find_region(self._used)
        page = region + REGION_BYTES
        with theirs, held():
            orphan = apart or (detach and self._notices_parent())
            seed.spawn_seed(self.root_tid, page, theirs.fileno(), orphan=orphan, apart=apart)
            # Only now: somebody else who has the pid must not be killed in our clean-up.
            self._traced.append(self.root_tid)
            received = theirs.fileno()
        ptrace.set_sigmask(self.root_tid, _ALL_SIGNALS)
        template = ptrace.get_regset(self.root_tid, ptrace.NT_PRSTATUS, 216)
        seed.map_region(self.root_tid, page, region, CODE_BYTES, DATA_BYTES)
        self._player = Player(self.root_tid, region, template, self._on_call)
        self._player.write_code()
        self._leave_only_tape(received)

    def _notices_parent(self) -> bool:
        hooks = [getattr(module, "notices_parent", None) for module in modules()]
        return any(hook(self.records) for hook in hooks if hook is not None)

    def _leave_only_tape(self, received: int) -> None:
        """Unmap the seed and its stack, and close every descriptor but the socket."""
        socket_fd = self.plan.socket_fd
        calls = []
        if received != socket_fd:
            calls.append(Call(_SYS_DUP3, (received, socket_fd, 0), socket_fd))
        calls.append(Call(_SYS_CLOSE_RANGE, (0, socket_fd - 1, 0)))
        calls.append(Call(_SYS_CLOSE_RANGE, (socket_fd + 1, 0xFFFF_FFFF, 0)))
        region = self._tape_player.region
        calls += [
            Call(_SYS_MUNMAP, (line.start, line.end - line.start))
            for line in self.read_maps(self.root_tid)
            if not region <= line.start < region + REGION_BYTES
            and not line.name.startswith((b"[vdso]", b"[vvar", b"[vsyscall]"))
        ]
        self.play(self.root_tid, calls)

    # What actions use

    def proc_path(self, tid: int, name: str) -> str:
        """Return the path of a /proc file of a restored thread."""
        return f"/proc/{self.root_tid}/task/{tid}/{name}"

    def read_maps(self, tid: int) -> list[MapsLine]:
        """Return the areas that a restored task has now."""
        with open(self.proc_path(tid, "maps"), "rb") as text:
            return parse_maps(text.read())

    def find_hole(self, size: int) -> int:
        """Return an address where neither the target nor the task has anything."""
        now = [(line.start, line.end) for line in self.read_maps(self.root_tid)]
        return find_free(size, sorted([*self._used, *now]))

    def page_extents(self, ref: int) -> tuple[Any, int]:
        """Return (array('Q') of address, length pairs; file offset of the first byte)."""
        if ref not in self.image.pages:
            return array.array("Q"), 0
        return self.image.page_extents(ref)

    def send_fds(self, fds: Sequence[int]) -> None:
        """Send one SCM_RIGHTS message of at most 253 descriptors to the root task."""
        assert self._socket is not None
        socket.send_fds(self._socket, [b"f"], list(fds))

    def close_fd(self, key: str) -> None:
        """Close and forget our descriptor of this key."""
        os.close(self.fds.pop(key))

    def play(self, tid: int, calls: Iterable[Call], why: str = "restore") -> list[int]:
        """Play calls on a stopped thread at once and return their results."""
        player = self._tape_player
        results = player.play(tid, list(calls), why, self.lag_ns())
        self._traced += player.born
        player.born.clear()
        return results

    def lead_ns(self) -> int:
        """Return how long the rest of the restore will about take: the clocks start that early.

        Too long costs a wait at the end, too short a small jump of the clocks.
        """
        return _LEAD_NS + len(self.plan.steps) * _LEAD_NS_A_STEP

    def expect_clock(self, monotonic_ns: int) -> None:
        """Let nothing run before the target's CLOCK_MONOTONIC reads `monotonic_ns`."""
        self._clock_goal_ns = monotonic_ns

    def lag_ns(self) -> int:
        """Return what the target's clock lags behind the moment of the freeze; 0 if it does not.

        Negative once the restore takes longer than was expected.
        """
        if self._clock_goal_ns is None:
            return 0
        if self._clock_ahead_ns is None:
            self._clock_ahead_ns = clocks_ahead(self.root_tid)[0]
        return self._clock_goal_ns - time.monotonic_ns() - self._clock_ahead_ns

    def rearm(self, tid: int, call: Rearm, time_ns: int, rmtp: int = 0) -> None:
        """Make `call` with a stop pending; keep its result for the thread's registers.

        The interrupted body stores what remains at `rmtp`: the program's own content comes back.
        """
        player = self._tape_player
        args, content = call.fill(player.data, time_ns)
        if content:
            player.write_memory(player.data, content)
        stored = player.read_memory(rmtp, _TIMESPEC_BYTES) if rmtp else b""
        int80 = call.entry.value == "int80"
        offset = machine_code.TAPE_INT80 if int80 else machine_code.TAPE_SYSCALL
        names = (
            ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp")
            if int80
            else ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        )
        loaded = dict(zip(names, args, strict=True))
        trap.enter_call(tid, player.regs_for(player.region + offset, rax=call.nr, **loaded))
        trap.finish_call_interrupted(tid)
        if stored:
            player.write_memory(rmtp, stored)
        after = parse_regs(ptrace.get_regset(tid, ptrace.NT_PRSTATUS, 216))
        self._results[tid] = signed(after.rax)
        made = [Blob(content) if content and arg == player.data else arg for arg in args]
        entry = Entry.INT80 if int80 else Entry.SYSCALL
        self._on_call(tid, Call(call.nr, tuple(made), entry=entry), signed(after.rax))

    def park(self, tid: int, regs: X86Regs) -> None:
        """Load final registers into a thread, in the trap."""
        trap.reach_trap(tid)
        ptrace.set_regset(tid, ptrace.NT_PRSTATUS, encode_regs(self._final_regs(tid, regs)))

    def _final_regs(self, tid: int, regs: X86Regs) -> X86Regs:
        """Return the registers that a thread gets: its own, or those of a call that is over.

        A sleep that had next to no time left ends while it is re-armed; then its result stands.
        """
        result = self._results.get(tid)
        if result is None or result == signed(regs.rax):
            return regs
        return msgspec.structs.replace(regs, rax=unsigned(result), orig_rax=unsigned(-1))

    def step_calls(self, tid: int, calls: Iterable[Call], why: str) -> None:
        """Make calls of `tid` from stop to stop, with every signal blocked.

        A tape ends in a trap, which unblocks SIGTRAP, no longer ignores it, and would take a fault
        that is queued before itself (`force_sig_info_to_task`, `dequeue_synchronous_signal`).
        """
        player = self._tape_player
        ptrace.set_sigmask(tid, _ALL_SIGNALS)
        for call in calls:
            (assembled,) = assemble([call], player.data)
            player.write_memory(player.data, assembled.content)
            ((entry, _),) = machine_code.parse_entries(assembled.content[: machine_code.ENTRY_SIZE])
            address = player.region + machine_code.TAPE_SYSCALL
            loaded = dict(zip(_ARGUMENTS, entry.args, strict=False))
            trap.enter_call(tid, player.regs_for(address, rax=entry.nr, **loaded))
            trap.finish_call(tid)
            after = parse_regs(ptrace.get_regset(tid, ptrace.NT_PRSTATUS, 216))
            self._on_call(tid, call, signed(after.rax))
            if signed(after.rax) != call.value:
                raise RestoreError(
                    f"{why}: {describe_call(call)} returned {signed(after.rax)}",
                    where=f"tid {tid}",
                )

    def expected_records(self) -> list[Record]:
        """Return the image's records as a second capture must find them."""
        return [
            msgspec.structs.replace(record, regs=self._final_regs(record.tid, record.regs))
            if isinstance(record, ThreadRecord)
            else record
            for record in self.records
        ]

    def unmap_tape(self, tid: int) -> None:
        """Unmap the tape region by one stepped call of `tid`."""
        player = self._tape_player
        address = player.region + machine_code.TAPE_SYSCALL
        regs = player.regs_for(address, rax=_SYS_MUNMAP, rdi=player.region, rsi=REGION_BYTES)
        trap.enter_call(tid, regs)
        trap.finish_call(tid)
        after = parse_regs(ptrace.get_regset(tid, ptrace.NT_PRSTATUS, 216))
        self._on_call(tid, unmap_call(player.region), signed(after.rax))
        if after.rax:
            raise RestoreError("the tape cannot be unmapped", errno=-signed(after.rax))

    def end_thread(self, tid: int) -> None:
        """Let `tid` exit while other threads of its process stay."""
        address = self._tape_player.region + machine_code.TAPE_SYSCALL
        ptrace.set_regset(
            tid, ptrace.NT_PRSTATUS, self._tape_player.regs_for(address, rax=_SYS_EXIT, rdi=0)
        )
        ptrace.resume(tid)
        self._traced.remove(tid)
        self._on_call(tid, EXIT_CALL, None)

    # The plan

    def carry_out(self, run: Sequence[Step]) -> None:
        """Carry out one run of steps: tape steps of one thread, or a single action."""
        first = run[0]
        if first.executor is Executor.TAPE:
            why = first.why if len(run) == 1 else f"{first.why} ... {run[-1].why}"
            self.play(first.tid, [call for step in run for call in step.calls], why)
            return
        assert first.action is not None
        try:
            first.action.perform(self)
        except CkptError:
            raise
        except OSError as error:
            raise RestoreError(
                f"{first.why} ({first.action.describe()}) failed: {error}",
                where=f"tid {first.tid}" if first.tid else "",
                errno=error.errno,
            ) from error

    def commit(self, options: Options) -> None:
        """Let everything run: from here on the process does not depend on us.

        It is committed when EXITKILL is cleared on the last thread.

        Raises:
            RestoreError: somebody has killed it before.
        """
        with held():
            try:
                self._commit(options)
            except ProcessLookupError as error:
                what = "was killed by somebody before it could run"
                raise RestoreError(what, where=f"pid {self.root_tid}") from error

    def _commit(self, options: Options) -> None:
        time.sleep(max(self.lag_ns(), 0) / 1e9)
        pidfd = os.pidfd_open(self.root_tid)
        try:
            stays_stopped = options.stopped or self.records.processes[0].stopped_by
            if stays_stopped:
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            for tid in self._traced:
                # No EXITKILL; syscall stops stay marked, which re-entering a call looks for.
                ptrace.set_options(tid, int(ptrace.Option.TRACESYSGOOD))
            tids, self._traced = self._traced, []
            self.undo.clear()
            reentries = [] if stays_stopped else list(self._reentries())
            for _ in reissue.let_go(self.root_tid, pidfd, tids, reentries):
                pass
        finally:
            os.close(pidfd)

    def leave_stopped(self) -> list[int]:
        """Let go of what exists so far, stopped as by SIGSTOP, for a debugger; return its threads.

        Nobody kills it when we end, and it has run no instruction of its own. What was changed
        outside of it (a terminal's mode) is taken back by `__exit__`.

        Raises:
            RestoreError: it did not come to rest, and is gone.
        """
        with held():
            tids, self._traced = self._traced, []
            standstill.leave_standing(self.root_tid, tids)
        return tids

    def _reentries(self) -> Iterator[reissue.Reentry]:
        """Yield the calls that are made again for the time that they had left."""
        now_ns = time.monotonic_ns() + self.lag_ns()
        for record in self.records.of(ThreadRecord):
            call = record.interrupted
            if call.kind is not Kind.REISSUE or call.remaining_ns is None:
                continue
            yield reissue.Reentry(
                record.tid,
                final_regs(call, record.regs),
                call.nr,
                call.entry,
                call.timeout,
                now_ns + call.remaining_ns,
            )

    def _kill(self) -> None:
        """End whatever was created and not committed."""
        with held():
            self._end_created()

    def _end_created(self) -> None:
        if not self._traced:
            return
        try:
            os.kill(self.root_tid, signal.SIGKILL)
        except ProcessLookupError:
            return
        for tid in [*self._traced[1:], self.root_tid]:
            try:
                while ptrace.wait_stop(tid).exit_status is None:  # type: ignore[union-attr]
                    pass
            except ChildProcessError:
                continue

"""Let threads go on, those first that make an interrupted call again with the time they had left.

The numbered order for a call whose timeout is finite (the timeout is read once, at the start of the
call). The thread stands in the PTRACE_EVENT_STOP trap, rewound to its call instruction:
1. Shorten the timeout where the call will read it: the program's own timespec, the register, or
   the socket's option.
2. Detach in the trap: the way to user mode clears the signal flag that a detach sets. Detached at
   its entry, a call that looks for signals before it sleeps (epoll_wait) would return EINTR.
3. When it blocks (or is over), put the program's own value back.
Only then are the other threads let go, so nobody reads the shortened value. If we die between 1
and 3, one call has a shorter timeout; the window is some tens of microseconds.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import msgspec

from ckpt.arch.x86_64.decode import CALL_SIZE, CallEntry, reads_register_before_write
from ckpt.arch.x86_64.regs import encode_regs
from ckpt.arch.x86_64.restart import Kind
from ckpt.arch.x86_64.timeouts import Where, encode_milliseconds, encode_time, read_args
from ckpt.host import ptrace
from ckpt.host.syscalls import pidfd_getfd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ckpt.arch.x86_64.regs import X86Regs
    from ckpt.arch.x86_64.restart import Strategy
    from ckpt.arch.x86_64.timeouts import Timeout
    from ckpt.host.kernel_view import ThreadView

_ARG_REGS: Final = {
    CallEntry.SYSCALL: ("rdi", "rsi", "rdx", "r10", "r8", "r9"),
    CallEntry.INT80: ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp"),
}
_IN_MEMORY: Final = frozenset((Where.TIMESPEC, Where.TIMEVAL, Where.TIMESPEC32, Where.TIMEVAL32))
_SOCKET_OPTION: Final = {
    Where.SO_RCVTIMEO: socket.SO_RCVTIMEO,
    Where.SO_SNDTIMEO: socket.SO_SNDTIMEO,
}
_REGISTER_TIMEOUT_CALLS: Final = frozenset((232, 281, 256, 319))
"""epoll_wait and epoll_pwait, of x86_64 and of i386."""
_CODE_BYTES: Final = 512
_REWRITTEN_BY_THE_KERNEL: Final = frozenset(("select", "_newselect", "pselect6", "ppoll"))
"""poll_select_finish(), fs/select.c."""
_TIMEVAL: Final = struct.Struct("<qq")
_BLOCK_WAIT_S: Final = 0.25
_LEAST_NS: Final = 1_000_000
"""A wait that is over is still made, shortly: what it waits for may have come meanwhile."""


class Interrupted(Protocol):
    """A stopped thread, as `ckpt.freeze` knows it."""

    tid: int
    regs: X86Regs
    handled_signal: bool
    strategy: Strategy | None


class Reentry(NamedTuple):
    """One call to be made again with a finite timeout."""

    tid: int
    regs: X86Regs
    """Rewound: rip at the call instruction, rax its number."""
    nr: int
    entry: CallEntry
    timeout: Timeout
    deadline_ns: int
    """In our CLOCK_MONOTONIC."""

    def args(self) -> tuple[int, ...]:
        """Return the call's arguments."""
        return read_args(self.regs, self.entry)

    def remaining_ns(self) -> int:
        """Return what is left of the wait now."""
        return max(self.deadline_ns - time.monotonic_ns(), _LEAST_NS)


def let_go(
    tgid: int, pidfd: int, tids: Iterable[int], reentries: Iterable[Reentry]
) -> Iterator[int]:
    """Detach every thread; yield each tid as it goes. A thread that has died is passed over."""
    entered: set[int] = set()
    undos: list[tuple[Reentry, Callable[[], None]]] = []
    try:
        for reentry in reentries:
            undo = _reenter(tgid, pidfd, reentry)
            entered.add(reentry.tid)
            undos.append((reentry, undo))
            yield reentry.tid
        for reentry, _ in undos:
            _wait_blocked(tgid, reentry)
    finally:
        # Backwards: two threads may share one structure.
        for _, undo in reversed(undos):
            undo()
    for tid in tids:
        if tid not in entered:
            try:
                ptrace.detach(tid)
            except ProcessLookupError:
                pass
            yield tid


def refresh_remaining(tgid: int, waits: Iterable[tuple[Interrupted, int | None]]) -> None:
    """Take the time of the freeze off what the kernel will let select and ppoll wait for.

    Their stop wrote the time that was left into the program's structure, and the restart reads it
    from there; when the call ends, the kernel writes once more. `waits` are threads and deadlines
    in our CLOCK_MONOTONIC.
    """
    for thread, deadline_ns in waits:
        strategy = thread.strategy
        if deadline_ns is None or strategy is None or thread.handled_signal:
            continue
        if strategy.timeout.where not in _IN_MEMORY:
            continue
        name = strategy.name.removesuffix("_time64")
        if strategy.kind is not Kind.NATIVE or name not in _REWRITTEN_BY_THE_KERNEL:
            continue
        address = read_args(thread.regs, strategy.entry)[strategy.timeout.arg]
        left_ns = max(deadline_ns - time.monotonic_ns(), 0)
        try:
            with open(f"/proc/{tgid}/task/{thread.tid}/mem", "r+b", buffering=0) as memory:
                os.pwrite(memory.fileno(), encode_time(strategy.timeout.where, left_ns), address)
        except OSError:
            # The thread was killed, or its memory changed: it must be let go all the same, and
            # then waits for what the kernel wrote.
            continue


def _nothing() -> None:
    pass


def _reenter(tgid: int, pidfd: int, reentry: Reentry) -> Callable[[], None]:
    """Shorten the timeout, let the thread into its call; return what puts the timeout back."""
    try:
        undo = _shorten(tgid, pidfd, reentry)
        regs = encode_regs(_shortened_regs(tgid, reentry))
        ptrace.set_regset(reentry.tid, ptrace.NT_PRSTATUS, regs)
        ptrace.detach(reentry.tid)
    except ProcessLookupError:
        return _nothing
    return undo


def _shorten(tgid: int, pidfd: int, reentry: Reentry) -> Callable[[], None]:
    where, index = reentry.timeout.where, reentry.timeout.arg
    if where in _IN_MEMORY:
        return _shorten_memory(tgid, reentry, reentry.args()[index])
    if where in _SOCKET_OPTION:
        return _shorten_option(pidfd, reentry, reentry.args()[index])
    return _nothing


def _shortened_regs(tgid: int, reentry: Reentry) -> X86Regs:
    """Return the rewound registers, with the time that is left if it goes into one of them.

    A register cannot be put back once the call has begun. Code behind a C library's wrapper does
    not look at it again; code that does (a call written out in a loop) would keep the short time
    for ever, so it rather waits its full time once more.
    """
    if reentry.timeout.where is not Where.MILLISECONDS:
        return reentry.regs
    name = _ARG_REGS[reentry.entry][reentry.timeout.arg]
    if _is_read_again(tgid, reentry, name):
        return reentry.regs
    left = encode_milliseconds(reentry.remaining_ns())
    return msgspec.structs.replace(reentry.regs, **{name: left})


def _is_read_again(tgid: int, reentry: Reentry, register: str) -> bool:
    """Tell whether the code behind the call may read `register` before it sets it."""
    address = reentry.regs.rip + CALL_SIZE
    try:
        with open(f"/proc/{tgid}/task/{reentry.tid}/mem", "rb", buffering=0) as memory:
            code = os.pread(memory.fileno(), _CODE_BYTES, address)
    except OSError:
        return True
    return reads_register_before_write(code, address, register) is not False


def prepare(views: Iterable[ThreadView]) -> None:
    """Import the disassembler while the target runs, if it will be asked while it is stopped."""
    if any(
        view.blocked_timer is not None
        and view.regs is not None
        and view.regs.orig_ax in _REGISTER_TIMEOUT_CALLS
        for view in views
    ):
        import capstone  # noqa: F401


def _shorten_memory(tgid: int, reentry: Reentry, address: int) -> Callable[[], None]:
    short = encode_time(reentry.timeout.where, reentry.remaining_ns())
    memory = os.open(f"/proc/{tgid}/task/{reentry.tid}/mem", os.O_RDWR | os.O_CLOEXEC)
    original = os.pread(memory, len(short), address)
    os.pwrite(memory, short, address)

    def undo() -> None:
        try:
            os.pwrite(memory, original, address)
        except OSError:
            # The process has ended, and its memory with it.
            if os.path.exists(f"/proc/{tgid}/task/{reentry.tid}"):
                raise
        finally:
            os.close(memory)

    return undo


def _shorten_option(pidfd: int, reentry: Reentry, target_fd: int) -> Callable[[], None]:
    option = _SOCKET_OPTION[reentry.timeout.where]
    copy = socket.socket(fileno=pidfd_getfd(pidfd, target_fd & 0xFFFF_FFFF))
    original = copy.getsockopt(socket.SOL_SOCKET, option, _TIMEVAL.size)
    short = encode_time(Where.TIMEVAL, reentry.remaining_ns())
    copy.setsockopt(socket.SOL_SOCKET, option, short)

    def undo() -> None:
        with copy:
            copy.setsockopt(socket.SOL_SOCKET, option, original)

    return undo


def _wait_blocked(tgid: int, reentry: Reentry) -> None:
    """Wait until the thread sleeps in its call, or is seen elsewhere: the timeout was read."""
    deadline = time.monotonic() + _BLOCK_WAIT_S
    while time.monotonic() < deadline:
        try:
            with open(f"/proc/{tgid}/task/{reentry.tid}/syscall", "rb") as file:
                text = file.read()
        except (FileNotFoundError, ProcessLookupError):
            return
        if not text.startswith(b"running"):
            return
        time.sleep(0.0001)

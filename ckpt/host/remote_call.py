"""Read-only system calls on a stopped thread, at a `syscall` instruction that it already has.

For a snapshot without BPF. Nothing is added to the target: the instruction is the one that the
thread is behind or one of the vdso, results go below the red zone of its own stack (or over bytes
of its own memory), and those bytes, the registers and the signal mask are put back. The order:
1. Save registers, mask, the bytes of the scratch place and the pointer to a restartable sequence.
2. Block all signals, lift seccomp and syscall user dispatch off the thread.
3. Each call: registers at the instruction with orig_rax -1 (so that the kernel restarts nothing),
   run to the syscall-entry stop, then to the syscall-exit stop, read rax.
4. In the last exit stop load the saved registers, then mask, memory, dispatch and options.
5. INTERRUPT and CONT into the PTRACE_EVENT_STOP trap: restart codes hold again (`trap`), and the
   restart_block was touched by nobody, for only calls are made that do not sleep.
The window: if we are killed between the first call of 3 and the registers of 4, the thread goes on
behind the `syscall` instruction with the registers of our call. Measured: 0.2 milliseconds
a call on a machine with twenty tasks waiting for its two CPUs; 6 calls a thread, 75 for one of them
that speaks for the process. Nothing in user space can close it: only the tracer loads registers.
"""

from __future__ import annotations

import os
import signal
import struct
from typing import TYPE_CHECKING, Final

from ckpt.arch.x86_64.regs import EFLAGS_FIXED, EFLAGS_IF, REG_NAMES, REGS_SIZE, USER_CS, signed
from ckpt.errors import CaptureError
from ckpt.host import ptrace
from ckpt.host.remote_place import find_memory, peek
from ckpt.host.syscalls import syscall

if TYPE_CHECKING:
    from ckpt.host.remote_place import CallPlace

SCRATCH_BYTES: Final = 256
"""What one call can store unless more is borrowed."""
_NO_CALL: Final = (1 << 64) - 1
SYS_TGKILL: Final = 234
"""`arch/x86/entry/syscalls/syscall_64.tbl`"""
_ALL_SIGNALS: Final = (1 << 64) - 1

_REGS: Final = struct.Struct("<27Q")
_INDEX: Final = {name: index for index, name in enumerate(REG_NAMES)}
_ARGS: Final = ("rdi", "rsi", "rdx", "r10", "r8", "r9")

FROZEN_OPTIONS: Final = int(ptrace.Option.TRACESYSGOOD | ptrace.Option.TRACEEXEC)
"""What `ckpt.freeze` seizes threads with."""
_DISPATCH: Final = struct.Struct("<4Q")
"""struct ptrace_sud_config, 32 bytes, `include/uapi/linux/ptrace.h`: mode first, 0 is off."""
_RSEQ: Final = struct.Struct("<QIIII")
"""struct ptrace_rseq_configuration, 24 bytes: pointer, size, signature, flags, pad."""
_RSEQ_CS_OFFSET: Final = 8
"""struct rseq: the pointer to the critical section, `include/uapi/linux/rseq.h`."""


class RemoteCallError(CaptureError):
    """A thread could not be made to call; it is as it was before."""


class RemoteCaller:
    """Makes one stopped thread call; use as a context manager.

    The thread must be in the PTRACE_EVENT_STOP trap, and is in it again afterwards with everything
    as it was. Nothing is done to it before the first call. Make only calls that change nothing and
    cannot sleep. `in_seccomp`: the thread is in a seccomp mode; `options`: its PTRACE_O_* now, with
    TRACESYSGOOD among them.
    """

    def __init__(
        self,
        tgid: int,
        tid: int,
        place: CallPlace,
        *,
        in_seccomp: bool = False,
        options: int = FROZEN_OPTIONS,
    ) -> None:
        self.tgid = tgid
        self.tid = tid
        self._place = place
        self._in_seccomp = in_seccomp
        self._options = options
        self._saved: bytes | None = None
        self._mask = 0
        self._scratch = 0
        self._borrowed: list[tuple[int, bytes]] = []
        self._dispatch = b""
        self._section = (0, b"")
        self._memory = -1
        self._held_stop = False

    def __enter__(self) -> RemoteCaller:
        return self

    def __exit__(self, *_reason: object) -> None:
        if self._saved is not None:
            self._give_back(self._saved)

    def call(self, nr: int, *args: int) -> int:
        """Make one call; return raw rax (-errno when it failed).

        Raises:
            RemoteCallError: the thread cannot be made to call.
            CaptureError: the thread has ended.
        """
        try:
            return self._call(self._saved or self._take(), nr, args)
        except ProcessLookupError as error:
            raise self._ended() from error

    def _ended(self) -> CaptureError:
        self._close()
        return CaptureError("ended while it was being looked at", where=f"tid {self.tid}")

    def _call(self, saved: bytes, nr: int, args: tuple[int, ...]) -> int:
        regs = list(_REGS.unpack(saved))
        regs[_INDEX["rip"]] = self._place.instruction
        regs[_INDEX["cs"]] = USER_CS
        regs[_INDEX["eflags"]] = EFLAGS_FIXED | EFLAGS_IF
        regs[_INDEX["orig_rax"]] = _NO_CALL
        regs[_INDEX["rax"]] = nr
        for name, value in zip(_ARGS, (*args, 0, 0, 0, 0, 0, 0), strict=False):
            regs[_INDEX[name]] = value & _NO_CALL
        ptrace.set_regset(self.tid, ptrace.NT_PRSTATUS, _REGS.pack(*regs))
        self._run_to_call_stop()
        self._run_to_call_stop()
        after = _REGS.unpack(ptrace.get_regset(self.tid, ptrace.NT_PRSTATUS, REGS_SIZE))
        return int(signed(after[_INDEX["rax"]]))

    @property
    def scratch(self) -> int:
        """Return the address of SCRATCH_BYTES bytes that calls may store to."""
        if self._saved is None:
            self._take()
        return self._scratch

    def read_scratch(self, size: int) -> bytes:
        """Return what a call has stored at `scratch`."""
        return self.read(self._scratch, size)

    def read(self, address: int, size: int) -> bytes:
        """Return memory of the target, after the first call."""
        return os.pread(self._memory, size, address)

    def borrow(self, size: int) -> int:
        """Return the address of `size` bytes more, which are put back like the scratch place.

        Raises:
            RemoteCallError: there is no private memory of that size.
        """
        saved = self._saved or self._take()
        place = self._find_memory(saved, size)
        self._borrowed.append((place, self.read(place, size)))
        return place

    def _find_memory(self, saved: bytes, size: int) -> int:
        rsp = _REGS.unpack(saved)[_INDEX["rsp"]]
        found = find_memory(self.tgid, self.tid, self._place.areas, rsp, size)
        if found is None:
            what = f"has no {size} bytes that a call could store to"
            raise RemoteCallError(what, where=f"tid {self.tid}")
        return found

    def _take(self) -> bytes:
        """Steps 1 and 2; return the registers. Killed here, we leave mask and dispatch changed."""
        tid = self.tid
        saved = ptrace.get_regset(tid, ptrace.NT_PRSTATUS, REGS_SIZE)
        self._mask = ptrace.get_sigmask(tid)
        self._memory = os.open(f"/proc/{self.tgid}/task/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._scratch = self._find_memory(saved, SCRATCH_BYTES)
            self._borrowed = [(self._scratch, self.read(self._scratch, SCRATCH_BYTES))]
            self._section = self._read_section()
            if self._in_seccomp:
                self._suspend_seccomp()
            ptrace.set_sigmask(tid, _ALL_SIGNALS)
            self._suspend_dispatch()
        except BaseException:
            os.close(self._memory)
            raise
        self._saved = saved
        return saved

    def _read_section(self) -> tuple[int, bytes]:
        """Read rseq_cs: the kernel clears it when a thread goes to user mode outside of it."""
        try:
            request = ptrace.Request.GET_RSEQ_CONFIGURATION
            pointer = _RSEQ.unpack(ptrace.get_record(self.tid, request, _RSEQ.size))[0]
        except OSError:
            return 0, b""  # Before Linux 5.13 nobody can tell; sections are a few instructions.
        content = peek(self._memory, pointer + _RSEQ_CS_OFFSET, 8) if pointer else b""
        return pointer + _RSEQ_CS_OFFSET, content if any(content) else b""

    def _suspend_seccomp(self) -> None:
        try:
            ptrace.set_options(self.tid, self._options | ptrace.Option.SUSPEND_SECCOMP)
        except OSError as error:
            raise RemoteCallError(
                "is in a seccomp mode, and we may not suspend it",
                where=f"tid {self.tid}",
                errno=error.errno,
            ) from error

    def _suspend_dispatch(self) -> None:
        """Switch syscall user dispatch off: the calls would raise SIGSYS in the program."""
        request = ptrace.Request.GET_SYSCALL_USER_DISPATCH_CONFIG
        try:
            config = ptrace.get_record(self.tid, request, _DISPATCH.size)
        except OSError:
            return  # A kernel without the request (before 6.4) whose threads may still use it
        if _DISPATCH.unpack(config)[0]:
            self._set_dispatch(bytes(_DISPATCH.size))
            self._dispatch = config

    def _set_dispatch(self, config: bytes) -> None:
        request = ptrace.Request.SET_SYSCALL_USER_DISPATCH_CONFIG
        ptrace.set_record(self.tid, request, config)

    def _run_to_call_stop(self) -> None:
        """Run to the next syscall-entry or -exit stop."""
        while True:
            ptrace.resume_to_syscall(self.tid)
            stop = ptrace.wait_stop(self.tid)
            if stop is None or stop.exit_status is not None:
                raise self._ended()
            if stop.is_syscall:
                return
            if stop.is_trap:
                continue
            if stop.event == 0 and stop.signo == signal.SIGSTOP:
                # Nobody can block it. It is sent again when the thread is itself again.
                self._held_stop = True
                continue
            raise RemoteCallError(
                f"stopped for {stop.signo} instead of a system call", where=f"tid {self.tid}"
            )

    def _give_back(self, saved: bytes) -> None:
        """Steps 4 and 5; the registers first, for they are what matters if we die."""
        tid = self.tid
        try:
            ptrace.set_regset(tid, ptrace.NT_PRSTATUS, saved)
            ptrace.set_sigmask(tid, self._mask)
            for place, content in reversed(self._borrowed):
                os.pwrite(self._memory, content, place)
            if self._dispatch:
                self._set_dispatch(self._dispatch)
            self._reach_trap()
            if self._section[1]:
                os.pwrite(self._memory, self._section[1], self._section[0])
            if self._in_seccomp:
                ptrace.set_options(tid, self._options)
            if ptrace.get_regset(tid, ptrace.NT_PRSTATUS, REGS_SIZE) != saved:
                ptrace.set_regset(tid, ptrace.NT_PRSTATUS, saved)
        except ProcessLookupError as error:
            raise self._ended() from error
        finally:
            self._close()
        if self._held_stop:
            syscall(SYS_TGKILL, self.tgid, tid, signal.SIGSTOP)

    def _reach_trap(self) -> None:
        ptrace.interrupt(self.tid)
        ptrace.resume(self.tid)
        stop = ptrace.wait_stop(self.tid)
        while stop is not None and stop.event == 0 and stop.signo == signal.SIGSTOP:
            self._held_stop = True
            ptrace.interrupt(self.tid)
            ptrace.resume(self.tid)
            stop = ptrace.wait_stop(self.tid)
        if stop is None or not stop.is_trap:
            raise CaptureError(f"did not come back to its stop: {stop}", where=f"tid {self.tid}")

    def _close(self) -> None:
        self._saved = None
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

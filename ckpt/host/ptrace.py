"""ptrace(2) as typed functions. Owns the requests; decides nothing about what to do with them.

Source of numbers: `include/uapi/linux/ptrace.h`, `arch/x86/include/uapi/asm/ptrace-abi.h`,
`include/uapi/linux/elf.h` (kernel 6.18).
"""

from __future__ import annotations

import ctypes
import enum
import os
import signal
from typing import Final, NamedTuple

from ckpt.host.syscalls import libc

_ptrace = libc.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)

WALL: Final = 0x40000000
"""`__WALL` of wait4: wait for every kind of child (`include/uapi/linux/wait.h`)."""

NT_PRSTATUS: Final = 1
NT_X86_XSTATE: Final = 0x202


class Request(enum.IntEnum):
    """ptrace requests."""

    PEEKUSER = 3
    POKEUSER = 6
    CONT = 7
    DETACH = 17
    SYSCALL = 24
    GET_THREAD_AREA = 25
    SET_THREAD_AREA = 26
    SETOPTIONS = 0x4200
    GETEVENTMSG = 0x4201
    GETSIGINFO = 0x4202
    GETREGSET = 0x4204
    SETREGSET = 0x4205
    SEIZE = 0x4206
    INTERRUPT = 0x4207
    LISTEN = 0x4208
    PEEKSIGINFO = 0x4209
    GETSIGMASK = 0x420A
    SETSIGMASK = 0x420B
    SECCOMP_GET_FILTER = 0x420C
    SECCOMP_GET_METADATA = 0x420D
    GET_RSEQ_CONFIGURATION = 0x420F
    SET_SYSCALL_USER_DISPATCH_CONFIG = 0x4210
    GET_SYSCALL_USER_DISPATCH_CONFIG = 0x4211


class Option(enum.IntFlag):
    """PTRACE_O_*."""

    TRACESYSGOOD = 1
    TRACEFORK = 1 << 1
    TRACEVFORK = 1 << 2
    TRACECLONE = 1 << 3
    TRACEEXEC = 1 << 4
    TRACEVFORKDONE = 1 << 5
    TRACEEXIT = 1 << 6
    EXITKILL = 1 << 20
    SUSPEND_SECCOMP = 1 << 21


class Event(enum.IntEnum):
    """PTRACE_EVENT_*: what a stop means; NONE is a signal-delivery stop."""

    NONE = 0
    FORK = 1
    VFORK = 2
    CLONE = 3
    EXEC = 4
    VFORK_DONE = 5
    EXIT = 6
    STOP = 128


class Stop(NamedTuple):
    """What waitpid said of one thread."""

    tid: int
    event: int
    """PTRACE_EVENT_*, 0 for a signal or syscall stop."""
    signo: int
    """The stop's signal; bit 0x80 marks a syscall stop (TRACESYSGOOD)."""
    exit_status: int | None
    """The wait status when the thread is gone, else None."""

    @property
    def is_syscall(self) -> bool:
        """True for a syscall-entry or syscall-exit stop."""
        return self.signo == signal.SIGTRAP | 0x80

    @property
    def is_trap(self) -> bool:
        """True for the PTRACE_EVENT_STOP trap, group stops included."""
        return self.event == Event.STOP


def _request(request: int, tid: int, addr: int | None = None, data: int | None = None) -> int:
    result = _ptrace(request, tid, addr, data)
    if result == -1:
        number = ctypes.get_errno()
        if number:
            raise OSError(number, f"ptrace {Request(request).name} of {tid}: {os.strerror(number)}")
    return int(result)


def seize(tid: int, options: int = 0) -> None:
    """Attach to `tid` without stopping it."""
    _request(Request.SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """Ask a seized thread to stop; the stop is reported by `wait_stop`."""
    _request(Request.INTERRUPT, tid)


def set_options(tid: int, options: int) -> None:
    """Replace the PTRACE_O_* of a stopped thread."""
    _request(Request.SETOPTIONS, tid, 0, options)


def resume(tid: int, signo: int = 0) -> None:
    """Let a stopped thread run (PTRACE_CONT), delivering `signo` when it is not 0."""
    _request(Request.CONT, tid, 0, signo)


def resume_to_syscall(tid: int) -> None:
    """Let a stopped thread run to its next syscall entry or exit."""
    _request(Request.SYSCALL, tid, 0, 0)


def detach(tid: int, signo: int = 0) -> None:
    """Let go of a stopped thread."""
    _request(Request.DETACH, tid, 0, signo)


def event_message(tid: int) -> int:
    """Return PTRACE_GETEVENTMSG of the current event stop (a new tid, an exit status)."""
    value = ctypes.c_ulong()
    _request(Request.GETEVENTMSG, tid, 0, ctypes.addressof(value))
    return value.value


def wait_stop(tid: int, *, block: bool = True) -> Stop | None:
    """Wait for `tid` to stop or end; None when `block` is false and nothing happened.

    Raises:
        ChildProcessError: the thread is not ours to wait for.
    """
    pid, status = os.waitpid(tid, WALL | (0 if block else os.WNOHANG))
    return None if pid == 0 else parse_status(pid, status)


def parse_status(tid: int, status: int) -> Stop:
    """Turn a wait status into a `Stop`."""
    if not os.WIFSTOPPED(status):
        return Stop(tid, 0, 0, status)
    return Stop(tid, status >> 16, (status >> 8) & 0xFF, None)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def get_regset(tid: int, note: int, room: int) -> bytes:
    """Return regset `note` (NT_*) of a stopped thread, at most `room` bytes of it."""
    buffer = ctypes.create_string_buffer(room)
    iovec = _Iovec(ctypes.addressof(buffer), room)
    _request(Request.GETREGSET, tid, note, ctypes.addressof(iovec))
    return buffer.raw[: iovec.length]


def set_regset(tid: int, note: int, content: bytes) -> None:
    """Load regset `note` (NT_*) into a stopped thread."""
    buffer = ctypes.create_string_buffer(content, len(content))
    iovec = _Iovec(ctypes.addressof(buffer), len(content))
    _request(Request.SETREGSET, tid, note, ctypes.addressof(iovec))


def get_sigmask(tid: int) -> int:
    """Return the blocked set of a stopped thread (64 bits, bit n-1 is signal n)."""
    value = ctypes.c_uint64()
    _request(Request.GETSIGMASK, tid, 8, ctypes.addressof(value))
    return value.value


def set_sigmask(tid: int, mask: int) -> None:
    """Replace the blocked set of a stopped thread."""
    value = ctypes.c_uint64(mask)
    _request(Request.SETSIGMASK, tid, 8, ctypes.addressof(value))


class _PeekSiginfoArgs(ctypes.Structure):
    _fields_ = (("off", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("nr", ctypes.c_int32))


SIGINFO_BYTES: Final = 128
_PEEK_BATCH: Final = 64


def peek_siginfo(tid: int, *, shared: bool) -> list[bytes]:
    """Return the queued siginfo (128 bytes each) of a stopped thread, or of its process."""
    found: list[bytes] = []
    buffer = ctypes.create_string_buffer(SIGINFO_BYTES * _PEEK_BATCH)
    while True:
        args = _PeekSiginfoArgs(len(found), 1 if shared else 0, _PEEK_BATCH)
        count = _request(Request.PEEKSIGINFO, tid, ctypes.addressof(args), ctypes.addressof(buffer))
        raw = buffer.raw
        found += [raw[i * SIGINFO_BYTES : (i + 1) * SIGINFO_BYTES] for i in range(count)]
        if count < _PEEK_BATCH:
            return found


def peek_user(tid: int, offset: int) -> int:
    """Return the word at `offset` of `struct user` (debug registers live there)."""
    ctypes.set_errno(0)
    value = ctypes.c_ulong()
    # The raw call stores through its data pointer; glibc's wrapper returns the word instead.
    result = _request(Request.PEEKUSER, tid, offset, ctypes.addressof(value))
    return result & 0xFFFF_FFFF_FFFF_FFFF


def poke_user(tid: int, offset: int, value: int) -> None:
    """Write the word at `offset` of `struct user`."""
    _request(Request.POKEUSER, tid, offset, value)


def get_record(tid: int, request: Request, room: int, addr: int | None = None) -> bytes:
    """Return the bytes that a PTRACE_GET_* request stores; `addr` defaults to their number."""
    buffer = ctypes.create_string_buffer(room)
    _request(request, tid, room if addr is None else addr, ctypes.addressof(buffer))
    return buffer.raw


def set_record(tid: int, request: Request, content: bytes, addr: int | None = None) -> None:
    """Hand `content` to a PTRACE_SET_* request; `addr` defaults to its size in bytes."""
    buffer = ctypes.create_string_buffer(content, len(content))
    _request(request, tid, len(content) if addr is None else addr, ctypes.addressof(buffer))


def get_seccomp_filter(tid: int, index: int) -> bytes:
    """Return filter `index` (0 is the first installed) as classic BPF, 8 bytes an instruction.

    Raises:
        OSError: ENOENT when there are fewer filters; EACCES without CAP_SYS_ADMIN.
    """
    count = _request(Request.SECCOMP_GET_FILTER, tid, index, None)
    buffer = ctypes.create_string_buffer(count * 8)
    _request(Request.SECCOMP_GET_FILTER, tid, index, ctypes.addressof(buffer))
    return buffer.raw


class _SeccompMetadata(ctypes.Structure):
    _fields_ = (("filter_off", ctypes.c_uint64), ("flags", ctypes.c_uint64))


def get_seccomp_flags(tid: int, index: int) -> int:
    """Return the SECCOMP_FILTER_FLAG_* that filter `index` was installed with (LOG, so far)."""
    data = _SeccompMetadata(index, 0)
    size = ctypes.sizeof(data)
    _request(Request.SECCOMP_GET_METADATA, tid, size, ctypes.addressof(data))
    return int(data.flags)

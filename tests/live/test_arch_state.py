"""What arch/ believes about register state, against what this kernel accepts and gives back."""

import ctypes
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec
import pytest

from ckpt.arch.x86_64 import debugregs, machine_code, regs, tls, xstate
from ckpt.arch.x86_64.debugregs import X86DebugRegs
from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.rearm import (
    TT_COMPAT,
    TT_NATIVE,
    TT_NONE,
    Rearm,
    rearm_futex,
    rearm_nanosleep,
    rearm_poll,
)
from ckpt.arch.x86_64.restart import ERESTART_RESTARTBLOCK
from ckpt.arch.x86_64.tls import UserDesc
from ckpt.host import ptrace
from tests.live.seed_process import SYS_MMAP, TAPE_ADDRESS, Seed, running_seed, wait

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SYS_MODIFY_LDT: Final = 154
LOW_ADDRESS: Final = 0x2000_0000
"""A page below 4 GiB, for int 0x80."""
WAIT_NS: Final = 300_000_000
REMAINDER: Final = LOW_ADDRESS + 0x100
FUTEX: Final = LOW_ADDRESS + 0x200
HRTIMER: Final = "hrtimer_nanosleep_restart"
CPU_TIMER: Final = "posix_cpu_nsleep_restart"


@pytest.fixture
def seed() -> Iterator[Seed]:
    with running_seed() as process:
        process.map_player()
        no_fd = regs.unsigned(-1)
        assert process.call(SYS_MMAP, LOW_ADDRESS, 0x1000, 3, 0x32, no_fd, 0) == LOW_ADDRESS
        yield process


def is_accepted(write: Callable[[], None]) -> bool:
    """Try a ptrace write; False when the kernel finds the values bad."""
    try:
        write()
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.EIO, errno.EFAULT), error
        return False
    return True


ALL = (CallEntry.SYSCALL, CallEntry.INT80)
REARMS = {
    "nanosleep": lambda how: rearm_nanosleep(HRTIMER, 1, 0, TT_NONE, how),
    "nanosleep with rmtp": lambda how: rearm_nanosleep(HRTIMER, 1, REMAINDER, TT_NATIVE, how),
    "boottime": lambda how: rearm_nanosleep(HRTIMER, 7, 0, TT_NONE, how),
    "poll": lambda how: rearm_poll(0, 0, has_timeout=True, entry=how),
    "futex": lambda how: rearm_futex(FUTEX, 0, 0xFFFF_FFFF, 128, how),
    "futex bitset": lambda how: rearm_futex(FUTEX, 0, 0x10, 9 | 128, how),
    "futex realtime": lambda how: rearm_futex(FUTEX, 0, 0x10, 9 | 128 | 256, how),
}
ANSWERS = {"futex": -errno.ETIMEDOUT}


def arm(seed: Seed, call: Rearm, time_ns: int) -> int:
    """Enter the call with a stop pending, as facts of the kernel have it; return its result."""
    args, data = call.fill(LOW_ADDRESS, time_ns)
    os.pwrite(seed.memory, data, LOW_ADDRESS)
    is_int80 = call.entry is CallEntry.INT80
    names = (
        ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp")
        if is_int80
        else ("rdi", "rsi", "rdx", "r10", "r8", "r9")
    )
    offset = machine_code.TAPE_INT80 if is_int80 else machine_code.TAPE_SYSCALL
    seed.set_regs(
        rip=TAPE_ADDRESS + offset,
        rax=call.nr,
        orig_rax=regs.unsigned(-1),
        **dict(zip(names, args, strict=True)),
    )
    ptrace.resume_to_syscall(seed.pid)
    assert wait(seed.pid).is_syscall
    ptrace.interrupt(seed.pid)
    ptrace.resume(seed.pid)
    assert wait(seed.pid).event == ptrace.Event.STOP
    return regs.signed(seed.regs().rax)


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("name", REARMS)
def test_an_armed_wait_ends_on_time(seed: Seed, name: str, how: CallEntry) -> None:
    call = REARMS[name](how)
    start_ns = time.monotonic_ns()
    deadline_ns = time.clock_gettime_ns(call.clock) + WAIT_NS
    assert arm(seed, call, deadline_ns if call.absolute else WAIT_NS) == -ERESTART_RESTARTBLOCK
    # The scratch is not read again: the wait is the restart_block's.
    os.pwrite(seed.memory, b"\xff" * 16, LOW_ADDRESS)
    seed.set_regs(rax=regs.unsigned(-ERESTART_RESTARTBLOCK), orig_rax=call.nr)
    seed.run_to_trap()
    elapsed_ns = time.monotonic_ns() - start_ns
    assert regs.signed(seed.regs().rax) == ANSWERS.get(name.split()[0], 0)
    assert 0 <= elapsed_ns - WAIT_NS < 50_000_000


def test_rmtp_keeps_its_form(seed: Seed) -> None:
    """The kernel writes what remains at the interruption, in the form that the block records."""
    for rmtp_type, form in ((TT_NATIVE, "<qq"), (TT_COMPAT, "<ii")):
        os.pwrite(seed.memory, b"\xee" * 16, REMAINDER)
        call = rearm_nanosleep(HRTIMER, 1, REMAINDER, rmtp_type, CallEntry.INT80)
        assert arm(seed, call, 5_000_000_000) == -ERESTART_RESTARTBLOCK
        written = os.pread(seed.memory, 16, REMAINDER)
        seconds, nanoseconds = struct.unpack(form, written[: struct.calcsize(form)])
        # Timer slack counts as remaining time.
        assert 4.5 < seconds + nanoseconds / 1e9 < 5.001
        assert written[struct.calcsize(form) :] == b"\xee" * (16 - struct.calcsize(form))


def test_cpu_clock_sleep_can_be_armed(seed: Seed) -> None:
    call = rearm_nanosleep(CPU_TIMER, 2, 0, TT_NONE, CallEntry.SYSCALL)
    assert arm(seed, call, WAIT_NS) == -ERESTART_RESTARTBLOCK


def test_a_changed_futex_answers_itself(seed: Seed) -> None:
    os.pwrite(seed.memory, b"\x01\0\0\0", FUTEX)
    call = rearm_futex(FUTEX, 0, 0xFFFF_FFFF, 128, CallEntry.SYSCALL)
    assert arm(seed, call, WAIT_NS) == -errno.EAGAIN


def test_xstate_comes_back_as_it_was_written(seed: Seed) -> None:
    host = xstate.read_host_layout()
    area = bytearray(ptrace.get_regset(seed.pid, xstate.NT_X86_XSTATE, xstate.MAX_AREA_SIZE))
    assert xstate.parse_enabled_features(bytes(area)) == host.features
    area[160:416] = os.urandom(256)
    used = int(xstate.Feature.SSE)
    for part in host.components:
        if part.number in (2, 5, 6, 7):
            area[part.offset : part.offset + part.size_bytes] = os.urandom(part.size_bytes)
            used |= 1 << part.number
    struct.pack_into("<Q", area, 512, used)
    assert xstate.check_area(bytes(area), host) == []
    ptrace.set_regset(seed.pid, xstate.NT_X86_XSTATE, bytes(area))
    seed.run_to_trap()
    back = ptrace.get_regset(seed.pid, xstate.NT_X86_XSTATE, xstate.MAX_AREA_SIZE)
    assert xstate.split_area(back, host) == xstate.split_area(bytes(area), host)


@pytest.mark.parametrize("wrong", ["", "short", "mxcsr", "features", "compacted", "reserved"])
def test_xstate_is_refused_where_the_check_says_so(seed: Seed, wrong: str) -> None:
    area = bytearray(ptrace.get_regset(seed.pid, xstate.NT_X86_XSTATE, xstate.MAX_AREA_SIZE))
    struct.pack_into("<Q", area, 512, 3)
    offset = {"mxcsr": xstate.MXCSR_OFFSET + 3, "features": 519, "compacted": 520, "reserved": 560}
    if wrong in offset:
        area[offset[wrong]] |= 0x10
    content = bytes(area[:-8] if wrong == "short" else area)
    ours = not xstate.check_area(content, xstate.read_host_layout())
    kernels = is_accepted(lambda: ptrace.set_regset(seed.pid, xstate.NT_X86_XSTATE, content))
    assert ours == kernels == (wrong == "")


@pytest.mark.parametrize(
    "state",
    [
        X86DebugRegs(),
        X86DebugRegs(dr0=0x1000, dr3=0x401001, dr7=1 | 1 << 6 | 0xD << 16),
        X86DebugRegs(dr2=0x2000, dr7=1 << 5 | 0x9 << 24),
        X86DebugRegs(dr0=0x1001, dr7=1 | 0xD << 16),
        X86DebugRegs(dr0=0x1000, dr7=1 | 0xC << 16),
        X86DebugRegs(dr0=0x1000, dr7=1 | 0x2 << 16),
        X86DebugRegs(dr1=0xFFFF_8000_0000_0000, dr7=1 << 2 | 1 << 20),
    ],
)
def test_debug_registers(seed: Seed, state: X86DebugRegs) -> None:
    def write() -> None:
        for offset, value in debugregs.build_writes(state):
            ptrace.poke_user(seed.pid, offset, value)

    sound = not debugregs.check_debugregs(state)
    assert is_accepted(write) == sound
    if sound:
        found = [
            ptrace.peek_user(seed.pid, debugregs.debugreg_offset(n)) for n in (0, 1, 2, 3, 6, 7)
        ]
        assert X86DebugRegs(*found) == state


@pytest.mark.parametrize(
    "change",
    [{}, {"cs": 0x10}, {"cs": 0}, {"ss": 0x18}, {"ds": 0}, {"fs_base": 1 << 63}, {"cs": 0x33}],
)
def test_register_checks_agree(seed: Seed, change: dict[str, int]) -> None:
    state = msgspec.structs.replace(seed.regs(), **change)
    accepted = is_accepted(
        lambda: ptrace.set_regset(seed.pid, regs.NT_PRSTATUS, regs.encode_regs(state))
    )
    assert accepted == (not regs.check_regs(state))
    if accepted:
        assert seed.regs() == state


FLAT = UserDesc(12, 0x1234_5000, 0xFFFFF, seg_32bit=True, limit_in_pages=True, useable=True)


@pytest.mark.parametrize(
    "desc",
    [
        FLAT,
        msgspec.structs.replace(FLAT, entry_number=14, contents=1, read_exec_only=True),
        msgspec.structs.replace(FLAT, seg_32bit=False),
        msgspec.structs.replace(FLAT, contents=2),
        msgspec.structs.replace(FLAT, seg_not_present=True),
        tls.empty_desc(13),
    ],
)
def test_tls_entries(seed: Seed, desc: UserDesc) -> None:
    def read() -> UserDesc:
        get = ptrace.Request.GET_THREAD_AREA
        return tls.parse_user_desc(ptrace.get_record(seed.pid, get, 16, desc.entry_number))

    assert read() == tls.empty_desc(desc.entry_number)
    write = is_accepted(lambda: set_thread_area(seed.pid, desc))
    assert write == (not tls.check_tls(desc))
    assert read() == (desc if write else tls.empty_desc(desc.entry_number))


def set_thread_area(tid: int, desc: UserDesc) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    buffer = ctypes.create_string_buffer(tls.encode_user_desc(desc), 16)
    if libc.ptrace(tls.PTRACE_SET_THREAD_AREA, tid, desc.entry_number, buffer) == -1:
        raise OSError(ctypes.get_errno(), "PTRACE_SET_THREAD_AREA")


@pytest.mark.parametrize(
    "desc",
    [
        msgspec.structs.replace(FLAT, entry_number=0),
        msgspec.structs.replace(FLAT, entry_number=70, contents=2, useable=False),
        msgspec.structs.replace(FLAT, entry_number=1, contents=3, seg_not_present=True),
        msgspec.structs.replace(FLAT, entry_number=1, contents=3),
    ],
)
def test_ldt_entries(seed: Seed, desc: UserDesc) -> None:
    os.pwrite(seed.memory, tls.encode_user_desc(desc), LOW_ADDRESS)
    written = regs.signed(seed.call(SYS_MODIFY_LDT, tls.MODIFY_LDT_WRITE, LOW_ADDRESS, 16)) & 0xFFFF
    sound = not tls.check_ldt(desc)
    assert (written == 0) == sound
    size = seed.call(SYS_MODIFY_LDT, tls.MODIFY_LDT_READ, LOW_ADDRESS, 0x1000)
    found = tls.parse_ldt(os.pread(seed.memory, size & 0xFFFF, LOW_ADDRESS))
    assert found == ([desc] if sound else [])

"""General registers: ``struct user_regs_struct`` as bytes, as ctypes and as a record.

``X86Regs`` is what an image holds. ``check_regs`` refuses values that the kernel would refuse or
silently change when they are loaded, so that a restore finds out before it starts.
"""

import ctypes
import struct
from typing import Annotated, Final

import msgspec

# The order of arch/x86/include/uapi/asm/ptrace.h and sys/user.h, Linux 6.1 headers.
# fmt: off
REG_NAMES: Final = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi",
    "rdi", "orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs",
    "gs",
)
# fmt: on
REGS_SIZE: Final = 27 * 8
_REGS: Final = struct.Struct("<27Q")
NT_PRSTATUS: Final = 1

# arch/x86/include/asm/segment.h: the selectors of a 64-bit task, with requested privilege 3.
USER_CS: Final = 0x33
USER_DS: Final = 0x2B
USER32_CS: Final = 0x23

# Bits of eflags that a program can have: those that ptrace sets (FLAG_MASK of
# arch/x86/kernel/ptrace.c: CF PF AF ZF SF TF DF OF RF AC NT), ID, which popf can toggle and ptrace
# leaves alone, and the two that are always set in user mode.
EFLAGS_CF: Final = 1 << 0
EFLAGS_TF: Final = 1 << 8
EFLAGS_IF: Final = 1 << 9
EFLAGS_NT: Final = 1 << 14
EFLAGS_ID: Final = 1 << 21
_EFLAGS_STATUS: Final = 0x0CD5 | EFLAGS_TF | 1 << 16 | 1 << 18
EFLAGS_FIXED: Final = 1 << 1
EFLAGS_USER_MASK: Final = _EFLAGS_STATUS | EFLAGS_NT | EFLAGS_ID | EFLAGS_IF | EFLAGS_FIXED

# TASK_SIZE_MAX with 4-level and with 5-level paging; bases of segments must lie below it.
ADDRESS_END_4LEVEL: Final = (1 << 47) - 4096
ADDRESS_END_5LEVEL: Final = (1 << 56) - 4096

U64 = Annotated[int, msgspec.Meta(ge=0)]
"""An unsigned 64-bit field of an architecture record; msgpack has no larger integer."""


class UserRegs(ctypes.Structure):
    """struct user_regs_struct, 216 bytes: PTRACE_GETREGS, and the NT_PRSTATUS regset."""

    _fields_ = [(name, ctypes.c_uint64) for name in REG_NAMES]


class X86Regs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The general registers of one thread, in the order of user_regs_struct."""

    r15: U64
    r14: U64
    r13: U64
    r12: U64
    rbp: U64
    rbx: U64
    r11: U64
    r10: U64
    r9: U64
    r8: U64
    rax: U64
    rcx: U64
    rdx: U64
    rsi: U64
    rdi: U64
    orig_rax: U64
    rip: U64
    cs: U64
    eflags: U64
    rsp: U64
    ss: U64
    fs_base: U64
    gs_base: U64
    ds: U64
    es: U64
    fs: U64
    gs: U64


def parse_regs(data: bytes) -> X86Regs:
    """Decode the 216 bytes of user_regs_struct."""
    return X86Regs(*_REGS.unpack(data))


def encode_regs(regs: X86Regs) -> bytes:
    """Encode registers as user_regs_struct, 216 bytes."""
    return _REGS.pack(*msgspec.structs.astuple(regs))


def signed(value: int) -> int:
    """Read a register as a signed number: rax after a failed call is -errno."""
    return value - (1 << 64) if value >> 63 else value


def unsigned(value: int) -> int:
    """Store a signed number as a register holds it, two's complement."""
    return value & ((1 << 64) - 1)


def check_regs(regs: X86Regs, address_end: int = ADDRESS_END_5LEVEL) -> list[str]:
    """List what the kernel would not load as it is; empty when the registers are sound.

    ``address_end`` is the end of user addresses on the restoring host.
    """
    problems = []
    for name in ("rip", "rsp", "fs_base", "gs_base"):
        if getattr(regs, name) >= address_end:
            problems.append(f"{name} {getattr(regs, name):#x}: not a user address")
    for name in ("cs", "ss"):
        problems += _check_selector(name, getattr(regs, name), may_be_null=False)
    for name in ("ds", "es", "fs", "gs"):
        problems += _check_selector(name, getattr(regs, name), may_be_null=True)
    problems += _check_eflags(regs.eflags)
    return problems


def _check_selector(name: str, value: int, *, may_be_null: bool) -> list[str]:
    """Check a selector as invalid_selector() of arch/x86/kernel/ptrace.c does."""
    if value == 0 and may_be_null:
        return []
    if value > 0xFFFF:
        return [f"{name} {value:#x}: not a selector"]
    if value & 3 != 3:
        return [f"{name} {value:#x}: not a user-mode selector"]
    return []


def _check_eflags(eflags: int) -> list[str]:
    foreign = eflags & ~EFLAGS_USER_MASK
    return [f"eflags {eflags:#x}: bits {foreign:#x} belong to the kernel"] if foreign else []

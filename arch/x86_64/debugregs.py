"""Hardware breakpoints of a thread: DR0 to DR3, DR6 and DR7, through PEEKUSER and POKEUSER.

The kernel accepts a DR7 only when every breakpoint that it enables is sound, so addresses are
written first and DR7 last. Sources: sys/user.h; arch/x86/include/uapi/asm/debugreg.h;
ptrace_write_dr7() and arch_bp_generic_fields() of arch/x86/kernel, Linux 6.x.
"""

from typing import Final

import msgspec

from ckpt.arch.x86_64.regs import ADDRESS_END_5LEVEL, U64

# offsetof(struct user, u_debugreg); u_debugreg is unsigned long[8].
DEBUGREG_OFFSET: Final = 848
BREAKPOINTS: Final = 4
DR_STATUS: Final = 6
DR_CONTROL: Final = 7
# What PEEKUSER shows of DR6 when nothing has been hit: its fixed bits (DR6_RESERVED).
DR6_INITIAL: Final = 0xFFFF_0FF0
# DR_CONTROL_RESERVED: the kernel drops these bits.
DR7_RESERVED: Final = 0xFFFF_FFFF_0000_FC00
_CONTROL_SHIFT: Final = 16
_TYPE_EXECUTE: Final = 0
_TYPE_IO: Final = 2
# The two length bits of DR7 to bytes.
_LENGTHS: Final = (1, 2, 8, 4)


class X86DebugRegs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The debug registers of one thread as PEEKUSER shows them."""

    dr0: U64 = 0
    dr1: U64 = 0
    dr2: U64 = 0
    dr3: U64 = 0
    dr6: U64 = DR6_INITIAL
    dr7: U64 = 0

    @property
    def addresses(self) -> tuple[int, int, int, int]:
        """The breakpoint addresses, DR0 to DR3."""
        return (self.dr0, self.dr1, self.dr2, self.dr3)


def debugreg_offset(number: int) -> int:
    """Return the PEEKUSER and POKEUSER offset of DR ``number`` (4 and 5 cannot be accessed)."""
    return DEBUGREG_OFFSET + 8 * number


def check_debugregs(regs: X86DebugRegs, address_end: int = ADDRESS_END_5LEVEL) -> list[str]:
    """List what POKEUSER would refuse or change."""
    problems = []
    if regs.dr7 & DR7_RESERVED:
        problems.append(f"dr7 {regs.dr7:#x}: reserved bits are set")
    if regs.dr6 >> 32:
        problems.append(f"dr6 {regs.dr6:#x}: reserved bits are set")
    for number, address in enumerate(regs.addresses):
        if address >= address_end:
            problems.append(f"dr{number} {address:#x}: not a user address")
        elif is_enabled(regs.dr7, number):
            problems += _check_breakpoint(regs.dr7, number, address)
    return problems


def is_enabled(dr7: int, number: int) -> bool:
    """Tell whether DR7 enables a breakpoint, locally or globally."""
    return bool(dr7 >> (2 * number) & 3)


def _check_breakpoint(dr7: int, number: int, address: int) -> list[str]:
    control = dr7 >> (_CONTROL_SHIFT + 4 * number) & 0xF
    kind, length = control & 3, _LENGTHS[control >> 2]
    if kind == _TYPE_IO:
        return [f"dr7 {dr7:#x}: breakpoint {number} is for ports"]
    if kind == _TYPE_EXECUTE and length != 1:
        return [f"dr7 {dr7:#x}: breakpoint {number} is for execution and {length} bytes long"]
    if address % length:
        return [f"dr{number} {address:#x}: not aligned to its {length} bytes"]
    return []


def build_writes(regs: X86DebugRegs) -> list[tuple[int, int]]:
    """Build the POKEUSER (offset, value) pairs for a thread whose debug registers are unused."""
    writes = [(n, address) for n, address in enumerate(regs.addresses) if address]
    if regs.dr6 != DR6_INITIAL:
        writes.append((DR_STATUS, regs.dr6))
    if regs.dr7:
        writes.append((DR_CONTROL, regs.dr7))
    return [(debugreg_offset(number), value) for number, value in writes]

"""Debug registers: what the kernel would refuse, and the order of writes."""

import pytest

from ckpt.arch.x86_64.debugregs import (
    DEBUGREG_OFFSET,
    X86DebugRegs,
    build_writes,
    check_debugregs,
    debugreg_offset,
    is_enabled,
)

EXECUTE, WRITE, PORT, ACCESS = range(4)
ONE, TWO, EIGHT, FOUR = range(4)


def control(number: int, kind: int, length: int) -> int:
    return 1 << 2 * number | (kind | length << 2) << 16 + 4 * number


def test_unused_registers_need_no_write() -> None:
    assert build_writes(X86DebugRegs()) == []
    assert check_debugregs(X86DebugRegs()) == []


def test_addresses_come_before_control() -> None:
    dr7 = control(0, WRITE, FOUR) | control(3, EXECUTE, ONE)
    regs = X86DebugRegs(dr0=0x1000, dr3=0x401001, dr6=0xFFFF_0FF1, dr7=dr7)
    assert check_debugregs(regs) == []
    offsets = [offset for offset, _ in build_writes(regs)]
    assert offsets == [DEBUGREG_OFFSET + 8 * number for number in (0, 3, 6, 7)]
    assert is_enabled(dr7, 3)
    assert not is_enabled(dr7, 1)


@pytest.mark.parametrize(
    ("regs", "problem"),
    [
        (X86DebugRegs(dr7=1 << 13), "reserved"),
        (X86DebugRegs(dr7=1 << 32), "reserved"),
        (X86DebugRegs(dr6=1 << 32), "dr6"),
        (X86DebugRegs(dr0=1 << 63), "not a user address"),
        (X86DebugRegs(dr0=0x1000, dr7=control(0, PORT, ONE)), "ports"),
        (X86DebugRegs(dr1=0x1000, dr7=control(1, EXECUTE, FOUR)), "execution"),
        (X86DebugRegs(dr2=0x1001, dr7=control(2, WRITE, TWO)), "aligned"),
        (X86DebugRegs(dr2=0x1004, dr7=control(2, ACCESS, EIGHT)), "aligned"),
    ],
)
def test_what_the_kernel_refuses(regs: X86DebugRegs, problem: str) -> None:
    problems = check_debugregs(regs)
    assert len(problems) == 1
    assert problem in problems[0]


def test_a_disabled_breakpoint_may_be_anything() -> None:
    regs = X86DebugRegs(dr2=0x1001, dr7=control(2, WRITE, FOUR) & ~0xFF)
    assert check_debugregs(regs) == []


def test_offsets() -> None:
    assert debugreg_offset(7) == 904

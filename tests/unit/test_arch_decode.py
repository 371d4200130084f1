"""Finding call instructions, and what code does with a register."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64.decode import (
    CallEntry,
    describe_call,
    find_call,
    reads_register_before_write,
)


@given(st.binary(max_size=14))
def test_call_is_found_behind_anything(before: bytes) -> None:
    assert find_call(before + b"\x0f\x05") is CallEntry.SYSCALL
    assert find_call(before + b"\xcd\x80") is CallEntry.INT80


@pytest.mark.parametrize("code", [b"", b"\x05", b"\x0f\x34", b"\xcd\x81", b"\x0f\x05\x90"])
def test_no_call(code: bytes) -> None:
    assert find_call(code) is CallEntry.NONE
    assert describe_call(code, 0x1000) == ""


READS = {
    "mov rax, r10": "4c89d0",
    "test r10d, r10d": "4585d2",
    "lea rax, [r10+8]": "498d4208",
    "nop; syscall": "900f05",
    "mov r10b, 1 leaves the rest; mov rax, r10": "41b2014c89d0",
    "je over a write, read there": "7403" + "4d31d2" + "4c89d0",
    "xor r10, r11": "4d31da",
    "cmp rax, r10": "4c39d0",
}
IGNORES = {
    "xor r10d, r10d": "4531d2",
    "mov r10d, 5": "41ba05000000",
    "mov r10, rcx; mov rax, r10": "4989ca4c89d0",
    "cmp rax, -4096; ja +1; ret; ret": "483d00f0ffff7701c3c3",
    "call; mov rax, r10": "e8000000004c89d0",
    "jmp +3 over a read; ret": "eb03" + "4c89d0" + "c3",
}
UNKNOWN = {
    "runs out": "9090",
    "jmp rax": "ffe0",
    "jump outside": "eb7f",
    "je outside, ret": "747f" + "c3",
}


@pytest.mark.parametrize("code", READS.values(), ids=READS)
def test_reads(code: str) -> None:
    assert reads_register_before_write(bytes.fromhex(code), 0x401000, "r10") is True


@pytest.mark.parametrize("code", IGNORES.values(), ids=IGNORES)
def test_does_not_read(code: str) -> None:
    assert reads_register_before_write(bytes.fromhex(code), 0x401000, "r10") is False


@pytest.mark.parametrize("code", UNKNOWN.values(), ids=UNKNOWN)
def test_undecided(code: str) -> None:
    assert reads_register_before_write(bytes.fromhex(code), 0x401000, "r10") is None


def test_loops_end() -> None:
    assert reads_register_before_write(bytes.fromhex("90ebfd"), 0x401000, "r10") is False
    assert reads_register_before_write(bytes.fromhex("907402ebfb4c89d0"), 0, "r10") is True


def test_other_registers() -> None:
    assert reads_register_before_write(bytes.fromhex("89c8c3"), 0, "rcx") is True
    assert reads_register_before_write(bytes.fromhex("31c9c3"), 0, "rcx") is False
    assert reads_register_before_write(bytes.fromhex("88e0c3"), 0, "rax") is True

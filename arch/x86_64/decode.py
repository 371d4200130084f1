"""Instructions around a thread's rip: which call it is in, and what becomes of a register.

The two opcodes of a system call are told apart by their bytes alone. capstone confirms and looks
ahead; importing it costs 50 ms, so it is imported only by the functions that need it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from capstone import Cs, CsInsn

CALL_SIZE: Final = 2
_SYSCALL: Final = b"\x0f\x05"
_INT80: Final = b"\xcd\x80"
_CALL_REGISTERS: Final = ("rax", "rdi", "rsi", "rdx", "r10", "r8", "r9")
_MAX_STEPS: Final = 256


class CallEntry(StrEnum):
    """The instruction that a thread entered the kernel by."""

    SYSCALL = "syscall"
    INT80 = "int80"
    NONE = "none"


def find_call(code: bytes) -> CallEntry:
    """Name the call instruction that ``code``, the bytes up to rip, ends with."""
    if code.endswith(_SYSCALL):
        return CallEntry.SYSCALL
    return CallEntry.INT80 if code.endswith(_INT80) else CallEntry.NONE


def describe_call(code: bytes, rip: int) -> str:
    """Disassemble the instruction that ends at ``rip``, for people; "" when there is no call."""
    if find_call(code) is CallEntry.NONE:
        return ""
    instructions = list(_disassembler().disasm(code[-CALL_SIZE:], rip - CALL_SIZE))
    if len(instructions) != 1 or instructions[0].size != CALL_SIZE:
        raise RuntimeError(f"capstone does not know {code[-CALL_SIZE:].hex()}")
    return f"{instructions[0].mnemonic} {instructions[0].op_str}".strip()


def reads_register_before_write(code: bytes, address: int, register: str) -> bool | None:
    """Say whether the instructions from ``address`` on read a register that they have not set.

    ``register`` is a 64-bit name ("r10"); parts of it count, and so does every path behind a
    conditional jump. A call or return ends a path as not reading: the System V ABI keeps none
    of the registers this is asked about over either. None: a path leaves ``code`` undecided.
    """
    disassembler = _disassembler(detail=True)
    pending, seen = [address], set[int]()
    undecided = False
    while pending:
        here = pending.pop()
        if here in seen:
            continue
        seen.add(here)
        instruction = _instruction_at(disassembler, code, address, here)
        if instruction is None or len(seen) > _MAX_STEPS:
            undecided = True
            continue
        reads, writes = _accesses(instruction, register)
        if reads:
            return True
        if writes:
            continue
        following = _successors(instruction)
        undecided |= following is None
        pending += following or []
    return None if undecided else False


def _disassembler(*, detail: bool = False) -> Cs:
    import capstone

    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    disassembler.detail = detail
    return disassembler


def _instruction_at(disassembler: Cs, code: bytes, start: int, here: int) -> CsInsn | None:
    offset = here - start
    if not 0 <= offset < len(code):
        return None
    # An x86 instruction has at most 15 bytes.
    return next(disassembler.disasm(code[offset : offset + 15], here, count=1), None)


def _accesses(instruction: CsInsn, register: str) -> tuple[bool, bool]:
    """Return (reads, replaces wholly) of a 64-bit register.

    A 32-bit write clears the upper half, so it replaces; an 8- or 16-bit write does not. Clearing
    by ``xor r, r`` is no read.
    """
    import capstone
    from capstone import x86

    parts = _register_parts(register)
    read, written = instruction.regs_access()
    reads = any(instruction.reg_name(number) in parts for number in read)
    names = [instruction.reg_name(number) for number in written]
    replaces = any(name in parts[:2] for name in names)
    if instruction.id in (x86.X86_INS_XOR, x86.X86_INS_SUB):
        operands = instruction.operands
        same = operands[0].type == operands[1].type == capstone.CS_OP_REG
        if same and operands[0].reg == operands[1].reg and replaces:
            reads = False
    # capstone does not say that a call takes its number and arguments from registers.
    if instruction.mnemonic == "syscall" and register in _CALL_REGISTERS:
        reads = True
    return reads, replaces


def _register_parts(register: str) -> list[str]:
    """Name a register and its parts, 64 and 32 bits first."""
    if register[1:].isdigit():
        return [register, f"{register}d", f"{register}w", f"{register}b"]
    letters = register[1:]
    low = letters[0] + "l" if letters.endswith("x") else letters + "l"
    return [register, f"e{letters}", letters, low, letters[0] + "h"]


def _successors(instruction: CsInsn) -> list[int] | None:
    """Return where a path goes on: nowhere ([]) after call and ret, None when it is unknown."""
    import capstone
    from capstone import x86

    if instruction.group(capstone.CS_GRP_RET) or instruction.group(capstone.CS_GRP_CALL):
        return []
    if not instruction.group(capstone.CS_GRP_JUMP):
        return [instruction.address + instruction.size]
    target = instruction.operands[0]
    if target.type != x86.X86_OP_IMM:
        return None
    if instruction.id == x86.X86_INS_JMP:
        return [target.imm]
    return [instruction.address + instruction.size, target.imm]

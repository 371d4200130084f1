"""DWARF expressions of call frame information: a stack machine over registers and memory.

DWARF 4, section 2.5.1, without what needs debugging information. Steps and stack are bounded:
an expression can branch back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckpt.debug.unwind_data import MASK, Cursor, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Read = Callable[[int, int], bytes]

_MAX_STEPS: Final = 1000
_MAX_STACK: Final = 64


def evaluate(expression: bytes, registers: Mapping[int, int], read: Read, *initial: int) -> int:
    """Return what an expression leaves on top of its stack, which begins with `initial`.

    Raises:
        MalformedError: it needs what is not there, or does not end.
    """
    stack = list(initial)
    cursor = Cursor(expression)
    for _ in range(_MAX_STEPS):
        if cursor.at_end:
            return _pop(stack)
        _step(cursor, stack, registers, read)
        if len(stack) > _MAX_STACK:
            raise MalformedError("an expression with too deep a stack")
    raise MalformedError("an expression that does not end")


def _pop(stack: list[int]) -> int:
    if not stack:
        raise MalformedError("an expression with an empty stack")
    return stack.pop()


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _step(cursor: Cursor, stack: list[int], registers: Mapping[int, int], read: Read) -> None:
    opcode = cursor.unsigned(1)
    if 0x30 <= opcode <= 0x4F:
        stack.append(opcode - 0x30)
    elif 0x70 <= opcode <= 0x8F:
        stack.append(_register(registers, opcode - 0x70) + cursor.sleb() & MASK)
    elif opcode == 0x92:
        stack.append(_register(registers, cursor.uleb()) + cursor.sleb() & MASK)
    elif opcode in (0x06, 0x94):
        size = 8 if opcode == 0x06 else cursor.unsigned(1)
        stack.append(_dereference(read, _pop(stack), size))
    elif opcode in _CONSTANTS:
        stack.append(_CONSTANTS[opcode](cursor) & MASK)
    elif opcode in _BINARY:
        right, left = _pop(stack), _pop(stack)
        stack.append(_BINARY[opcode](left, right) & MASK)
    elif opcode in (0x28, 0x2F):
        distance = cursor.signed(2)
        if opcode == 0x2F or _pop(stack):
            _jump(cursor, distance)
    else:
        _rearrange(opcode, cursor, stack)


def _register(registers: Mapping[int, int], number: int) -> int:
    if number not in registers:
        raise MalformedError(f"register {number} is not known")
    return registers[number]


def _dereference(read: Read, address: int, size: int) -> int:
    data = read(address, size) if 1 <= size <= 8 else b""
    if not data or len(data) != size:
        raise MalformedError("memory that is not there")
    return int.from_bytes(data, "little")


def _jump(cursor: Cursor, distance: int) -> None:
    cursor.at += distance
    if not 0 <= cursor.at <= len(cursor.data):
        raise MalformedError("an expression that leaves itself")


def _rearrange(opcode: int, cursor: Cursor, stack: list[int]) -> None:
    if opcode in (0x12, 0x14, 0x15):
        depth = {0x12: 0, 0x14: 1}.get(opcode)
        depth = cursor.unsigned(1) if depth is None else depth
        if depth >= len(stack):
            raise MalformedError("an expression with an empty stack")
        stack.append(stack[-1 - depth])
    elif opcode == 0x13:
        _pop(stack)
    elif opcode == 0x16:
        top, second = _pop(stack), _pop(stack)
        stack += [top, second]
    elif opcode == 0x17:
        top, second, third = _pop(stack), _pop(stack), _pop(stack)
        stack += [top, third, second]
    elif opcode in _UNARY:
        stack.append(_UNARY[opcode](_pop(stack)) & MASK)
    elif opcode == 0x23:
        stack.append(_pop(stack) + cursor.uleb() & MASK)
    elif opcode != 0x96:
        raise MalformedError(f"expression operation {opcode:#x}")


def _divide(left: int, right: int) -> int:
    if not right:
        raise MalformedError("a division by zero")
    quotient = abs(_signed(left)) // abs(_signed(right))
    return quotient if (_signed(left) < 0) == (_signed(right) < 0) else -quotient


def _modulo(left: int, right: int) -> int:
    if not right:
        raise MalformedError("a division by zero")
    return left % right


_CONSTANTS: Final[dict[int, Callable[[Cursor], int]]] = {
    0x03: lambda cursor: cursor.unsigned(8),
    0x08: lambda cursor: cursor.unsigned(1),
    0x09: lambda cursor: cursor.signed(1),
    0x0A: lambda cursor: cursor.unsigned(2),
    0x0B: lambda cursor: cursor.signed(2),
    0x0C: lambda cursor: cursor.unsigned(4),
    0x0D: lambda cursor: cursor.signed(4),
    0x0E: lambda cursor: cursor.unsigned(8),
    0x0F: lambda cursor: cursor.signed(8),
    0x10: Cursor.uleb,
    0x11: Cursor.sleb,
}
_UNARY: Final[dict[int, Callable[[int], int]]] = {
    0x19: lambda value: abs(_signed(value)),
    0x1F: lambda value: -value,
    0x20: lambda value: ~value,
}
_BINARY: Final[dict[int, Callable[[int, int], int]]] = {
    0x1A: lambda left, right: left & right,
    0x1B: _divide,
    0x1C: lambda left, right: left - right,
    0x1D: _modulo,
    0x1E: lambda left, right: left * right,
    0x21: lambda left, right: left | right,
    0x22: lambda left, right: left + right,
    0x24: lambda left, right: left << right if right < 64 else 0,
    0x25: lambda left, right: left >> right if right < 64 else 0,
    0x26: lambda left, right: _signed(left) >> min(right, 63),
    0x27: lambda left, right: left ^ right,
    0x29: lambda left, right: left == right,
    0x2A: lambda left, right: _signed(left) >= _signed(right),
    0x2B: lambda left, right: _signed(left) > _signed(right),
    0x2C: lambda left, right: _signed(left) <= _signed(right),
    0x2D: lambda left, right: _signed(left) < _signed(right),
    0x2E: lambda left, right: left != right,
}

"""Call frame instructions: from an entry and an address to the rule of each register there.

DWARF 4, section 6.4.2, with the GNU extensions that compilers write.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.unwind_data import Cursor, MalformedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt.debug.unwind_table import Entry

RBP: Final = 6
RSP: Final = 7
RETURN: Final = 16
"""DWARF's register numbers; System V ABI, AMD64 supplement, figure 3.36."""
_MAX_REGISTER: Final = 128
_MAX_REMEMBERED: Final = 64
_MAX_OFFSET: Final = 1 << 32


class How(Enum):
    """Where the caller's value of a register is."""

    UNDEFINED = auto()
    SAME = auto()
    OFFSET = auto()
    """In memory, at the CFA plus `number`."""
    VALUE_OFFSET = auto()
    """It is the CFA plus `number`."""
    REGISTER = auto()
    EXPRESSION = auto()
    """In memory, at what `expression` yields."""
    VALUE_EXPRESSION = auto()


class Rule(NamedTuple):
    """The rule of one register."""

    how: How
    number: int = 0
    expression: bytes = b""


class CfaRule(NamedTuple):
    """The CFA: a register plus an offset, or an expression if there is one."""

    register: int
    offset: int
    expression: bytes = b""


class Row(NamedTuple):
    """The rules at one address."""

    cfa: CfaRule
    rules: dict[int, Rule]


def find_row(entry: Entry, address: int) -> Row:
    """Return the rules that hold at `address`.

    Raises:
        MalformedError: the program makes no sense.
    """
    machine = _Machine(entry, address)
    machine.run(Cursor(entry.cie.program, entry.cie.program_at))
    machine.initial = dict(machine.rules)
    machine.location = entry.start
    machine.run(Cursor(entry.program, entry.program_at))
    if machine.cfa is None:
        raise MalformedError("no rule for the CFA")
    return Row(machine.cfa, machine.rules)


class _Machine:
    """The state that call frame instructions work on. Every instruction takes a byte at least."""

    def __init__(self, entry: Entry, address: int) -> None:
        self.cie = entry.cie
        self.pointer_encoding = entry.cie.pointer_encoding
        self.address = address
        self.location = 0
        self.cfa: CfaRule | None = None
        self.rules: dict[int, Rule] = {}
        self.initial: dict[int, Rule] = {}
        self.remembered: list[tuple[CfaRule | None, dict[int, Rule]]] = []

    def run(self, cursor: Cursor) -> None:
        """Carry out instructions up to the first that is about code behind the address."""
        while not cursor.at_end:
            opcode = cursor.unsigned(1)
            kind, operand = opcode & 0xC0, opcode & 0x3F
            if kind == 0x40:
                self.location += operand * self.cie.code_align
            elif kind == 0x80:
                self._save(operand, cursor.uleb() * self.cie.data_align)
            elif kind == 0xC0:
                self._restore(operand)
            elif opcode in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode](self, cursor)
            else:
                raise MalformedError(f"call frame instruction {opcode:#x}")
            if self.location > self.address:
                return

    def _save(self, register: int, offset: int, how: How = How.OFFSET) -> None:
        if abs(offset) > _MAX_OFFSET:
            raise MalformedError("an offset that no frame has")
        self._set(register, Rule(how, offset))

    def _set(self, register: int, rule: Rule) -> None:
        if register > _MAX_REGISTER:
            raise MalformedError(f"register {register}")
        self.rules[register] = rule

    def _restore(self, register: int) -> None:
        if register in self.initial:
            self.rules[register] = self.initial[register]
        else:
            self.rules.pop(register, None)

    def _advance(self, distance: int) -> None:
        self.location += distance * self.cie.code_align

    def set_location(self, cursor: Cursor) -> None:
        self.location = cursor.pointer(self.pointer_encoding)

    def advance1(self, cursor: Cursor) -> None:
        self._advance(cursor.unsigned(1))

    def advance2(self, cursor: Cursor) -> None:
        self._advance(cursor.unsigned(2))

    def advance4(self, cursor: Cursor) -> None:
        self._advance(cursor.unsigned(4))

    def offset_extended(self, cursor: Cursor) -> None:
        self._save(cursor.uleb(), cursor.uleb() * self.cie.data_align)

    def offset_extended_signed(self, cursor: Cursor) -> None:
        self._save(cursor.uleb(), cursor.sleb() * self.cie.data_align)

    def offset_negative(self, cursor: Cursor) -> None:
        self._save(cursor.uleb(), -cursor.uleb() * self.cie.data_align)

    def value_offset(self, cursor: Cursor) -> None:
        self._save(cursor.uleb(), cursor.uleb() * self.cie.data_align, How.VALUE_OFFSET)

    def value_offset_signed(self, cursor: Cursor) -> None:
        self._save(cursor.uleb(), cursor.sleb() * self.cie.data_align, How.VALUE_OFFSET)

    def restore_extended(self, cursor: Cursor) -> None:
        self._restore(cursor.uleb())

    def undefined(self, cursor: Cursor) -> None:
        self._set(cursor.uleb(), Rule(How.UNDEFINED))

    def same_value(self, cursor: Cursor) -> None:
        self._set(cursor.uleb(), Rule(How.SAME))

    def register(self, cursor: Cursor) -> None:
        self._set(cursor.uleb(), Rule(How.REGISTER, cursor.uleb()))

    def expression(self, cursor: Cursor) -> None:
        self._set(cursor.uleb(), Rule(How.EXPRESSION, 0, cursor.block()))

    def value_expression(self, cursor: Cursor) -> None:
        self._set(cursor.uleb(), Rule(How.VALUE_EXPRESSION, 0, cursor.block()))

    def remember(self, _cursor: Cursor) -> None:
        if len(self.remembered) >= _MAX_REMEMBERED:
            raise MalformedError("too many remembered states")
        self.remembered.append((self.cfa, dict(self.rules)))

    def restore_state(self, _cursor: Cursor) -> None:
        if not self.remembered:
            raise MalformedError("no remembered state")
        self.cfa, self.rules = self.remembered.pop()

    def define_cfa(self, cursor: Cursor) -> None:
        self.cfa = CfaRule(cursor.uleb(), cursor.uleb())

    def define_cfa_signed(self, cursor: Cursor) -> None:
        self.cfa = CfaRule(cursor.uleb(), cursor.sleb() * self.cie.data_align)

    def define_cfa_register(self, cursor: Cursor) -> None:
        self.cfa = CfaRule(cursor.uleb(), self.cfa.offset if self.cfa else 0)

    def define_cfa_offset(self, cursor: Cursor) -> None:
        self.cfa = CfaRule(self.cfa.register if self.cfa else RSP, cursor.uleb())

    def define_cfa_offset_signed(self, cursor: Cursor) -> None:
        register = self.cfa.register if self.cfa else RSP
        self.cfa = CfaRule(register, cursor.sleb() * self.cie.data_align)

    def define_cfa_expression(self, cursor: Cursor) -> None:
        self.cfa = CfaRule(RSP, 0, cursor.block())

    def nothing(self, _cursor: Cursor) -> None:
        """DW_CFA_nop."""

    def skip_size(self, cursor: Cursor) -> None:
        """DW_CFA_GNU_args_size is for exceptions only."""
        cursor.uleb()


_INSTRUCTIONS: Final[dict[int, Callable[[_Machine, Cursor], None]]] = {
    0x00: _Machine.nothing,
    0x01: _Machine.set_location,
    0x02: _Machine.advance1,
    0x03: _Machine.advance2,
    0x04: _Machine.advance4,
    0x05: _Machine.offset_extended,
    0x06: _Machine.restore_extended,
    0x07: _Machine.undefined,
    0x08: _Machine.same_value,
    0x09: _Machine.register,
    0x0A: _Machine.remember,
    0x0B: _Machine.restore_state,
    0x0C: _Machine.define_cfa,
    0x0D: _Machine.define_cfa_register,
    0x0E: _Machine.define_cfa_offset,
    0x0F: _Machine.define_cfa_expression,
    0x10: _Machine.expression,
    0x11: _Machine.offset_extended_signed,
    0x12: _Machine.define_cfa_signed,
    0x13: _Machine.define_cfa_offset_signed,
    0x14: _Machine.value_offset,
    0x15: _Machine.value_offset_signed,
    0x16: _Machine.value_expression,
    0x2E: _Machine.skip_size,
    0x2F: _Machine.offset_negative,
}

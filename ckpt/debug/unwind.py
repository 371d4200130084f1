"""Backtraces: from registers and memory to the functions that are being run, newest first.

Three ways lead from a frame to its caller, tried in this order: what the kernel stored when it
called a signal handler (`struct rt_sigframe`), the rules of `.eh_frame`, the frame pointer. Memory
may be hostile or torn: the number of frames is bounded, and stacks only go up within a thread's
stack; a walk ends where that does not hold.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.unwind_data import MASK, MalformedError
from ckpt.debug.unwind_expression import evaluate
from ckpt.debug.unwind_rules import RBP, RETURN, RSP, How, Row, find_row
from ckpt.debug.unwind_signal import is_trampoline, read_signal_frame
from ckpt.debug.unwind_table import find_entry

if TYPE_CHECKING:
    from ckpt.debug.space import Module, Space
    from ckpt.debug.unwind_rules import Rule

REGISTERS: Final = "registers"
EH_FRAME: Final = "eh_frame"
FRAME_POINTER: Final = "frame pointer"
SIGNAL_FRAME: Final = "signal frame"
STACK_TOP: Final = "stack top"
"""A call has just left its return address: rip is not code, or a function that pushed nothing."""
SIGNAL_HANDLER_CALLED: Final = "<signal handler called>"

MAX_FRAMES: Final = 10_000
_NAMES: Final = ("rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp") + tuple(
    f"r{number}" for number in range(8, 16)
)
"""By DWARF's register number; System V ABI, AMD64 supplement, figure 3.36."""
_PRESERVED: Final = frozenset((3, RBP, 12, 13, 14, 15))
"""rbx, rbp, r12 to r15: a callee that says nothing of them has left them alone."""
_EXEC: Final = 0x4
_WORD: Final = 8
_CS_32BIT: Final = 0x23

_CALL: Final = b"\xe8"
_CALL_BYTES: Final = 5
"""call rel32"""


class Frame(NamedTuple):
    """One function that is being run."""

    address: int
    """Where it goes on."""
    cfa: int
    """What rsp was before it was called; 0 when that is not known."""
    how: str
    """How it was found: `registers`, `eh_frame`, `frame pointer`, `signal frame`, `stack top`."""
    is_return: bool = False
    """A call stands before `address`, which may be the first byte of another function."""
    is_trampoline: bool = False
    """The code that a signal handler returns to, not a function of the program."""

    @property
    def lookup(self) -> int:
        """The address to name this frame by."""
        return self.address - self.is_return


class Walk(NamedTuple):
    """A backtrace, and why it ends."""

    frames: list[Frame]
    end: str
    """`outermost frame`, `limit of N frames`, or what is missing."""
    problems: dict[str, str]
    """Path of a module without unwind information -> why."""


def backtrace(space: Space, regs: Any, limit: int = 64) -> list[Frame]:
    """Return the frames of a thread, newest first, the first for `regs.rip`.

    `regs` has rip, rsp and rbp, and those of the other registers that are known
    (`ckpt.arch.x86_64.regs.X86Regs` has all of them).
    """
    return walk_stack(space, regs, limit).frames


def walk_stack(space: Space, regs: Any, limit: int = 64) -> Walk:
    """As `backtrace`, and say why it ends and which files it missed."""
    values = {
        number: value
        for number, name in enumerate(_NAMES)
        if (value := getattr(regs, name, None)) is not None
    }
    values[RETURN] = regs.rip
    walker = _Walker(space, values, min(limit, MAX_FRAMES))
    if getattr(regs, "cs", 0) == _CS_32BIT:
        walker.frames.append(Frame(regs.rip, 0, REGISTERS))
        return Walk(walker.frames, "32-bit code is not unwound", {})
    return Walk(walker.frames, walker.run(), walker.problems)


def name_frame(space: Space, frame: Frame) -> str:
    """Return module and function of a frame with the offset of its address, as safe text."""
    if frame.is_trampoline:
        return SIGNAL_HANDLER_CALLED
    place = space.locate(frame.lookup)
    if not frame.is_return:
        return place
    return _OFFSET.sub(lambda found: f"+{int(found[1], 16) + 1:#x}", place)


_OFFSET: Final = re.compile(r"\+(0x[0-9a-f]+)$")


class _EndError(Exception):
    """The walk ends here; the text says why."""


class _Step(NamedTuple):
    """From a frame to its caller."""

    cfa: int
    registers: dict[int, int]
    """The caller's; without RETURN it is the outermost frame."""
    how: str
    is_return: bool = True


class _Walker:
    def __init__(self, space: Space, registers: dict[int, int], limit: int) -> None:
        self.frames: list[Frame] = []
        self.problems: dict[str, str] = {}
        self._space = space
        self._registers = registers
        self._limit = limit
        self._how = REGISTERS
        self._is_return = False

    def run(self) -> str:
        """Walk; return why it ended."""
        while len(self.frames) < self._limit:
            pc = self._registers.get(RETURN, 0)
            if not pc and self.frames:
                return "outermost frame"
            place = len(self.frames)
            self.frames.append(Frame(pc, 0, self._how, self._is_return))
            try:
                step = self._find_caller(pc)
            except _EndError as error:
                return str(error)
            self.frames[place] = self.frames[place]._replace(cfa=step.cfa)
            self._registers = step.registers
            self._how, self._is_return = step.how, step.is_return
        return f"limit of {self._limit} frames"

    def _find_caller(self, pc: int) -> _Step:
        trampoline = self._step_by_signal_frame(pc)
        if trampoline is not None:
            self.frames[-1] = self.frames[-1]._replace(is_return=False, is_trampoline=True)
            return trampoline
        if not self._is_code(pc):
            return self._step_by_stack_top(pc)
        module = self._space.module_at(pc)
        step = self._step_by_rules(module, pc) if module is not None else None
        if step is None:
            step = self._step_by_call(pc) or self._step_by_frame_pointer()
        self._check_caller(step)
        return step

    def _is_code(self, address: int) -> bool:
        area = self._space.find_area(address)
        return area is not None and bool(area.flags & _EXEC)

    def _word(self, address: int) -> int | None:
        data = self._space.read(address, _WORD) if 0 <= address <= MASK else b""
        return int.from_bytes(data, "little") if len(data) == _WORD else None

    def _step_by_signal_frame(self, pc: int) -> _Step | None:
        if not is_trampoline(self._space, pc):
            return None
        stack = self._registers.get(RSP, 0)
        values = read_signal_frame(self._space, stack)
        if values is None:
            raise _EndError("the signal frame cannot be read")
        return _Step(stack, values, SIGNAL_FRAME, is_return=False)

    def _step_by_stack_top(self, pc: int) -> _Step:
        stack = self._registers.get(RSP, 0)
        word = self._word(stack) if self._how in (REGISTERS, SIGNAL_FRAME) else None
        if word is None or not self._is_code(word - 1):
            raise _EndError(f"there is no code at {pc:#x}")
        after = {**self._registers, RSP: stack + _WORD, RETURN: word}
        return _Step(stack + _WORD, after, STACK_TOP)

    def _step_by_call(self, pc: int) -> _Step | None:
        """For code that has pushed nothing yet: the stack's top is where its caller goes on.

        Only if there is a call instruction before that place which leads to this very function.
        """
        function = self._space.find_symbol(pc) if not self._is_return else None
        stack = self._registers.get(RSP, 0)
        back = self._word(stack)
        if function is None or back is None or back < _CALL_BYTES:
            return None
        call = self._space.read(back - _CALL_BYTES, _CALL_BYTES)
        if len(call) != _CALL_BYTES or call[:1] != _CALL:
            return None
        if back + int.from_bytes(call[1:], "little", signed=True) != function.value:
            return None
        return _Step(
            stack + _WORD, {**self._registers, RSP: stack + _WORD, RETURN: back}, STACK_TOP
        )

    def _step_by_rules(self, module: Module, pc: int) -> _Step | None:
        """Use `.eh_frame`; None when the module has nothing for this address."""
        if module.problem:
            self.problems[module.path] = module.problem
        try:
            entry = find_entry(self._space, module, pc - self._is_return)
            if entry is None:
                return None
            row = find_row(entry, pc - self._is_return)
            cfa = self._find_cfa(row)
            registers = self._apply(row, cfa)
        except MalformedError as error:
            self.problems[module.path] = f"its .eh_frame cannot be used: {error}"
            return None
        is_signal = entry.cie.is_signal_frame
        if is_signal:
            self.frames[-1] = self.frames[-1]._replace(is_trampoline=True)
        return _Step(cfa, registers, SIGNAL_FRAME if is_signal else EH_FRAME, not is_signal)

    def _find_cfa(self, row: Row) -> int:
        rule = row.cfa
        if rule.expression:
            return evaluate(rule.expression, self._registers, self._space.read)
        if rule.register not in self._registers:
            raise MalformedError(f"register {rule.register} is not known")
        return (self._registers[rule.register] + rule.offset) & MASK

    def _apply(self, row: Row, cfa: int) -> dict[int, int]:
        """Return the caller's registers, those that can be known."""
        caller = {
            number: value
            for number, value in self._registers.items()
            if number in _PRESERVED and number not in row.rules
        }
        caller[RSP] = cfa
        for number, rule in row.rules.items():
            value = self._follow(rule, number, cfa)
            if value is not None:
                caller[number] = value
            elif number == RETURN and rule.how is not How.UNDEFINED:
                raise MalformedError("the return address cannot be read")
        return caller

    def _follow(self, rule: Rule, number: int, cfa: int) -> int | None:
        if rule.how is How.SAME:
            return self._registers.get(number)
        if rule.how is How.OFFSET:
            return self._word((cfa + rule.number) & MASK)
        if rule.how is How.VALUE_OFFSET:
            return (cfa + rule.number) & MASK
        if rule.how is How.REGISTER:
            return self._registers.get(rule.number)
        if rule.how is How.UNDEFINED:
            return None
        value = evaluate(rule.expression, self._registers, self._space.read, cfa)
        return self._word(value) if rule.how is How.EXPRESSION else value

    def _step_by_frame_pointer(self) -> _Step:
        base = self._registers.get(RBP, 0)
        stack = self._registers.get(RSP, 0)
        if not base:
            raise _EndError("no unwind information, and the frame pointer is 0")
        saved, back = self._word(base), self._word(base + _WORD)
        if base < stack or base % _WORD or saved is None or back is None:
            raise _EndError("no unwind information, and no frame pointer")
        after = {RBP: saved, RSP: base + 2 * _WORD, RETURN: back}
        return _Step(base + 2 * _WORD, after, FRAME_POINTER)

    def _check_caller(self, step: _Step) -> None:
        """Raise unless the caller's frame can be one: further up the stack, returning to code."""
        back = step.registers.get(RETURN, 0)
        if step.how != SIGNAL_FRAME and step.cfa <= self._registers.get(RSP, 0):
            raise _EndError("the stack does not go on")
        if step.how == FRAME_POINTER and not back:
            raise _EndError("outermost frame")
        if back and not self._is_code(back - step.is_return) and step.how != SIGNAL_FRAME:
            raise _EndError(f"the return address {back:#x} is not in code")

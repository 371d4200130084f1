"""Instructions around an address, read by capstone.

x86 instructions have no fixed size: what stands before an address is found by decoding from an
earlier place and seeing whether an instruction ends exactly there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.space import Space

MAX_INSTRUCTION_BYTES: Final = 15
_CHUNK_BYTES: Final = 4096
_MAX_BACK_BYTES: Final = 1024
_JUMPS: Final = ("call", "j", "loop")


class Line(NamedTuple):
    """One instruction."""

    address: int
    code: bytes
    text: str
    """Mnemonic and operands; `(bad)` for a byte that begins no instruction."""
    target: str = ""
    """What a direct jump or call leads to, as safe text."""

    def render(self, mark: int = -1) -> str:
        """Return one line for people, marked with `=>` when it stands at `mark`."""
        sign = "=>" if self.address == mark else "  "
        target = f"  <{self.target}>" if self.target else ""
        return f"{sign} {self.address:#x}:  {self.code.hex(' '):<30}  {self.text}{target}"

    def plain(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {**self._asdict(), "code": self.code.hex()}


def disasm(space: Space, address: int, before: int, after: int, bits: int = 64) -> list[Line]:
    """Return `before` instructions that end at `address`, the one there, and `after` more.

    Fewer where bytes are not known. `bits` is 32 for a thread in 32-bit code.
    """
    lines = _read_before(space, address, before, bits) if before else []
    for line in iter_disasm(space, address, address + (after + 1) * MAX_INSTRUCTION_BYTES, bits):
        lines.append(line)
        after -= 1
        if after < 0:
            break
    return lines


def iter_disasm(space: Space, start: int, end: int, bits: int = 64) -> Iterator[Line]:
    """Yield the instructions that begin in [start, end), up to the first byte that is not known."""
    engine = _engine(bits)
    while start < end:
        wanted = min(end - start, _CHUNK_BYTES) + MAX_INSTRUCTION_BYTES - 1
        code = space.read(start, wanted)
        if not code:
            return
        # What the chunk cuts is decoded again with the next one.
        last = start + len(code) - (MAX_INSTRUCTION_BYTES - 1 if len(code) == wanted else 0)
        for line in _decode(engine, space, code, start, min(last, end)):
            yield line
            start = line.address + len(line.code)


def _decode(engine: Any, space: Space, code: bytes, start: int, end: int) -> Iterator[Line]:
    """Yield the instructions of `code` that begin before `end`."""
    at = start
    while at < end:
        for size, mnemonic, operands in _decode_run(engine, code[at - start :], at):
            if at >= end:
                return
            text = escape(f"{mnemonic} {operands}".strip())
            target = _target(space, mnemonic, operands)
            yield Line(at, code[at - start : at - start + size], text, target)
            at += size
        if at < end:
            yield Line(at, code[at - start : at - start + 1], "(bad)")
            at += 1


def _decode_run(engine: Any, code: bytes, address: int) -> Iterator[tuple[int, str, str]]:
    for _address, size, mnemonic, operands in engine.disasm_lite(code, address):
        yield size, mnemonic, operands


def _target(space: Space, mnemonic: str, operands: str) -> str:
    if not mnemonic.startswith(_JUMPS) or not operands.startswith("0x"):
        return ""
    return space.locate(int(operands, 16))


def _read_before(space: Space, address: int, count: int, bits: int) -> list[Line]:
    """Return up to `count` instructions that end exactly at `address`.

    Decoding falls in step with the true instructions after a few: it begins well before those that
    are wanted, at a function's first byte if one is near, else at the first place that leads here.
    """
    engine = _engine(bits)
    distance = min(_MAX_BACK_BYTES, (count + 8) * MAX_INSTRUCTION_BYTES, address)
    for start in _starts(space, address, distance):
        code = space.read(start, address - start)
        if len(code) != address - start:
            continue
        lines = list(_decode(engine, space, code, start, address))
        if lines and lines[-1].address + len(lines[-1].code) == address:
            good = [line for line in lines[-count:] if line.text != "(bad)"]
            if len(good) == len(lines[-count:]):
                return good
    return []


def _starts(space: Space, address: int, distance: int) -> Iterator[int]:
    function = space.find_symbol(address)
    if function is not None and 0 < address - function.value <= _MAX_BACK_BYTES:
        yield function.value
    area = space.find_area(address)
    lowest = max(address - distance, area.start if area is not None else 0)
    yield from range(lowest, min(lowest + MAX_INSTRUCTION_BYTES, address))
    yield from range(max(lowest, address - 2 * MAX_INSTRUCTION_BYTES), address)


def _engine(bits: int) -> Any:
    from ckpt.debug.x86_decoder import open_decoder

    return open_decoder(bits)

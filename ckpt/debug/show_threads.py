"""`show --threads`: each thread's registers, call, backtrace, code around rip, and signal state.

All of it from the image; code and unwind tables that it does not hold come from the mapped files
of this machine, if those are what the process had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ckpt.arch.x86_64.decode import CallEntry
from ckpt.arch.x86_64.timeouts import read_args
from ckpt.debug.call_args import CallDecoder
from ckpt.debug.calls import describe_thread
from ckpt.debug.disasm import disasm
from ckpt.debug.session_files import Fds
from ckpt.debug.show_blocks import Block
from ckpt.debug.show_state import (
    NO_STATE,
    ThreadState,
    collect_states,
    state_lines,
    state_plain,
    walk_robust_lists,
)
from ckpt.debug.symbols import AddressSpace
from ckpt.debug.text import escape
from ckpt.debug.unwind import Walk, name_frame, walk_stack
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.arch.x86_64.regs import X86Regs
    from ckpt.debug.call_args import Call
    from ckpt.debug.disasm import Line
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import Records

# fmt: off
_GENERAL: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15", "rip",
)
# fmt: on
"""In gdb's order."""
_SEGMENTS: Final = ("cs", "ss", "ds", "es", "fs", "gs")
_BASES: Final = ("fs_base", "gs_base", "orig_rax")
_EFLAGS: Final = {
    0: "CF", 2: "PF", 4: "AF", 6: "ZF", 7: "SF", 8: "TF", 9: "IF", 10: "DF", 11: "OF",
    14: "NT", 16: "RF", 17: "VM", 18: "AC", 19: "VIF", 20: "VIP", 21: "ID",
}  # fmt: skip
_AROUND: Final = 4
_CS_32BIT: Final = 0x23
_AT_FDCWD: Final = -100
_HALF: Final = 1 << 63
_OUTERMOST: Final = "outermost frame"


def thread_blocks(image: ImageFile, records: Records) -> Iterator[Block]:
    """Yield a block a thread, process by process."""
    threads = {record.tid: record for record in records.of(ThreadRecord)}
    states = collect_states(records)
    for process in records.processes:
        with AddressSpace(image, records, process) as space:
            calls = CallDecoder(space, _FdNames(Fds(records, process)).name)
            for tid in process.tids:
                if tid in threads:
                    state = states.get(tid, NO_STATE)
                    yield _thread_block(threads[tid], process.tgid, state, space, calls)


class _FdNames:
    """Names descriptors as strace's `-yy` does: `3<pipe, read end>`."""

    def __init__(self, fds: Fds) -> None:
        self._fds = fds

    def name(self, value: int) -> str:
        fd = (value & 0xFFFF_FFFF ^ 1 << 31) - (1 << 31)
        if fd == _AT_FDCWD:
            return "AT_FDCWD"
        return f"{fd}<{self._fds[fd].text}>" if fd in self._fds else str(fd)


def _decode_call(record: ThreadRecord, calls: CallDecoder) -> Call | None:
    """Return the call that the thread was in with its arguments; None when it was in none."""
    call = record.interrupted
    if not call.name or call.nr < 0:
        return None
    is_i386 = call.entry is CallEntry.INT80
    return calls.decode(call.nr, read_args(record.regs, call.entry), is_i386=is_i386)


def _thread_block(
    record: ThreadRecord, tgid: int, state: ThreadState, space: AddressSpace, calls: CallDecoder
) -> Block:
    call = describe_thread(record, space)
    walk = walk_stack(space, record.regs)
    bits = 32 if record.regs.cs == _CS_32BIT else 64
    code = disasm(space, record.regs.rip, _AROUND, _AROUND, bits)
    held = list(walk_robust_lists(state.robust, space))
    decoded = _decode_call(record, calls)
    lines = [f"  process: {tgid}"]
    lines += [f"  call: {decoded.text}"] if decoded is not None else []
    lines += [f"  instruction: {call.instruction}"]
    lines += _register_lines(record.regs, space)
    lines += _backtrace_lines(walk, space)
    lines += _code_lines(code, record.regs.rip)
    lines += state_lines(record, state, held, space)
    plain = {
        **call.plain(),
        "tgid": tgid,
        "arguments": [arg.text for arg in decoded.args] if decoded is not None else None,
        "registers": {name: getattr(record.regs, name) for name in record.regs.__struct_fields__},
        "backtrace": _backtrace_plain(walk, space),
        "backtrace_end": walk.end,
        "problems": {path: escape(text) for path, text in walk.problems.items()},
        "code": [line.plain() for line in code],
        **state_plain(record, state, held),
    }
    return Block(call.line(), lines, plain)


def _register_lines(regs: X86Regs, space: AddressSpace) -> Iterator[str]:
    """Yield the registers as gdb's `info registers` has them, addresses named."""
    yield "  registers:"
    for name in _GENERAL:
        value = getattr(regs, name)
        yield f"    {name:<9}{value:#018x}  {_natural(name, value, space)}".rstrip()
    yield f"    {'eflags':<9}{regs.eflags:#018x}  {flag_names(regs.eflags)}"
    yield "    " + "  ".join(f"{name} {getattr(regs, name):#x}" for name in _SEGMENTS)
    yield "    " + "  ".join(f"{name} {getattr(regs, name):#x}" for name in _BASES)


def _natural(name: str, value: int, space: AddressSpace) -> str:
    place = space.locate(value) if value >= 1 << 12 else ""
    if place:
        return f"<{place}>"
    if name == "rip":
        return "<not mapped>"
    return str(value - (1 << 64) if value >= _HALF else value)


def flag_names(eflags: int) -> str:
    """Return the bits of eflags as gdb does: `[ ZF PF IF ]`."""
    return f"[ {' '.join(name for bit, name in _EFLAGS.items() if eflags >> bit & 1)} ]"


def _backtrace_lines(walk: Walk, space: AddressSpace) -> Iterator[str]:
    yield "  backtrace:"
    for number, frame in enumerate(walk.frames):
        place = name_frame(space, frame) or "not mapped"
        yield f"    #{number:<3}{frame.address:#018x}  {place}  ({frame.how})"
    if walk.end != _OUTERMOST:
        yield f"    ends: {escape(walk.end)}"
    for path, problem in walk.problems.items():
        yield f"    {escape(path)}: {escape(problem)}: only frame pointers lead on"


def _backtrace_plain(walk: Walk, space: AddressSpace) -> list[dict[str, Any]]:
    return [
        {
            "address": frame.address,
            "cfa": frame.cfa,
            "how": frame.how,
            "place": name_frame(space, frame),
        }
        for frame in walk.frames
    ]


def _code_lines(code: list[Line], rip: int) -> Iterator[str]:
    yield "  code:"
    for line in code:
        yield f"    {line.render(rip)}"
    if not any(line.address == rip for line in code):
        yield f"    {rip:#x}: not readable"

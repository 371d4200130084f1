"""`show --threads`: each thread's registers, call, backtrace, code around rip, and signal state.

All of it from the image; code and unwind tables that it does not hold come from the mapped files
of this machine, if those are what the process had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.calls import describe_thread
from ckpt.debug.disasm import disasm
from ckpt.debug.futexes import Futexes
from ckpt.debug.render import render
from ckpt.debug.show_blocks import Block
from ckpt.debug.symbols import AddressSpace
from ckpt.debug.text import escape
from ckpt.debug.unwind import Walk, name_frame, walk_stack
from ckpt.objects import siginfo
from ckpt.objects.altstack import AltStack
from ckpt.objects.robust import RobustLists
from ckpt.objects.rseq import RseqRecord
from ckpt.objects.signals import ThreadSignals
from ckpt.objects.task import ThreadRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.arch.x86_64.regs import X86Regs
    from ckpt.debug.disasm import Line
    from ckpt.debug.inspect_types import RobustEntry, RobustList
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
_HALF: Final = 1 << 63
_MAX_HELD_SHOWN: Final = 64
_MAX_PENDING_SHOWN: Final = 64
_MIN_SIGINFO_BYTES: Final = 20
_DONT_CARE: Final = "outermost frame"


class _State(NamedTuple):
    """The other records about one thread, where there are any."""

    signals: ThreadSignals | None
    altstack: AltStack | None
    robust: RobustLists | None
    rseq: RseqRecord | None


def thread_blocks(image: ImageFile, records: Records) -> Iterator[Block]:
    """Yield a block a thread, process by process."""
    threads = {record.tid: record for record in records.of(ThreadRecord)}
    states = {tid: _State(*parts) for tid, parts in _collect(records).items()}
    for process in records.processes:
        with AddressSpace(image, records, process) as space:
            for tid in process.tids:
                if tid in threads:
                    state = states.get(tid, _State(None, None, None, None))
                    yield _thread_block(threads[tid], process.tgid, state, space)


def _collect(records: Records) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    kinds: tuple[type[Any], ...] = (ThreadSignals, AltStack, RobustLists, RseqRecord)
    for at, kind in enumerate(kinds):
        for record in records.of(kind):
            found.setdefault(record.tid, [None] * 4)[at] = record
    return found


def _thread_block(record: ThreadRecord, tgid: int, state: _State, space: AddressSpace) -> Block:
    call = describe_thread(record, space)
    walk = walk_stack(space, record.regs)
    bits = 32 if record.regs.cs == _CS_32BIT else 64
    code = disasm(space, record.regs.rip, _AROUND, _AROUND, bits)
    held = list(_walk_robust_lists(state.robust, space))
    lines = [f"  process: {tgid}", f"  instruction: {call.instruction}"]
    lines += _register_lines(record.regs, space)
    lines += _backtrace_lines(walk, space)
    lines += _code_lines(code, record.regs.rip)
    lines += _state_lines(record, state, held, space)
    plain = {
        **call.plain(),
        "tgid": tgid,
        "registers": {name: getattr(record.regs, name) for name in record.regs.__struct_fields__},
        "backtrace": _backtrace_plain(walk, space),
        "backtrace_end": walk.end,
        "problems": {path: escape(text) for path, text in walk.problems.items()},
        "code": [line.plain() for line in code],
        **_state_plain(record, state, held),
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
    if walk.end != _DONT_CARE:
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


def _state_lines(
    record: ThreadRecord, state: _State, held: Iterable[RobustList], space: AddressSpace
) -> Iterator[str]:
    if state.signals is not None:
        yield f"  blocked signals: {siginfo.names_in(state.signals.mask)}"
        pending = _pending(state.signals)
        if pending:
            shown = ", ".join(pending[:_MAX_PENDING_SHOWN])
            yield f"  pending signals: {shown}" + (", ..." if len(pending) > 64 else "")
    if state.altstack is not None:
        low, high = state.altstack.sp, state.altstack.sp + state.altstack.size
        inside = "the thread is on it" if low < record.regs.rsp <= high else "not in use"
        yield f"  alternate stack: {low:#x}-{high:#x}, {state.altstack.size} bytes, {inside}"
    yield from _robust_lines(held)
    if state.rseq is not None:
        where = render(state.rseq.address, "address", space.locate)
        yield f"  rseq: {where}, {state.rseq.length} bytes, signature {state.rseq.signature:#x}"
    if record.clear_child_tid is not None:
        where = render(record.clear_child_tid, "clear_child_tid", space.locate)
        yield f"  clear_child_tid: {where}"


def _pending(record: ThreadSignals) -> list[str]:
    infos = [info for info in record.pending if len(info) >= _MIN_SIGINFO_BYTES]
    return [siginfo.name_of(siginfo.signo_of(info)) for info in infos]


def _walk_robust_lists(record: RobustLists | None, space: AddressSpace) -> Iterator[RobustList]:
    """Walk the robust lists of a thread; who waits for what is in them, an image does not say."""
    if record is None:
        return
    futexes = Futexes(space, None, 0, (), {})
    if record.head:
        yield futexes.walk_robust_list(record.head, is_compat=False)
    if record.compat_head:
        yield futexes.walk_robust_list(record.compat_head, is_compat=True)


def _robust_lines(held: Iterable[RobustList]) -> Iterator[str]:
    for walk in held:
        name = "compat robust list" if walk.is_compat else "robust list"
        more = f", then: {walk.problem}" if walk.problem else ""
        yield f"  {name}: head {walk.head:#x}, {len(walk.entries)} futexes held{more}"
        for entry in walk.entries[:_MAX_HELD_SHOWN]:
            yield f"    {_futex_text(entry)}"
        if len(walk.entries) > _MAX_HELD_SHOWN:
            yield f"    ... {len(walk.entries) - _MAX_HELD_SHOWN} more"
        if walk.pending is not None:
            yield f"    being taken or released: {_futex_text(walk.pending)}"


def _futex_text(entry: RobustEntry) -> str:
    futex = entry.futex
    where = f"futex {futex.address:#x}{f' ({futex.place})' if futex.place else ''}"
    if futex.value is None:
        return f"{where}: not readable"
    states = [f"owner {futex.owner_tid}"]
    states += ["has waiters"] if futex.has_waiters else []
    states += ["owner died"] if futex.owner_died else []
    states += ["priority inheritance"] if entry.is_pi else []
    return f"{where}: {', '.join(states)}"


def _robust_plain(walk: RobustList) -> dict[str, Any]:
    return {
        "head": walk.head,
        "is_compat": walk.is_compat,
        "held": [_futex_plain(entry) for entry in walk.entries],
        "pending": _futex_plain(walk.pending) if walk.pending is not None else None,
        "problem": walk.problem,
    }


def _futex_plain(entry: RobustEntry) -> dict[str, Any]:
    futex = entry.futex
    return {
        "address": futex.address,
        "place": futex.place,
        "value": futex.value,
        "owner_tid": futex.owner_tid,
        "has_waiters": futex.has_waiters,
        "owner_died": futex.owner_died,
        "is_pi": entry.is_pi,
    }


def _state_plain(record: ThreadRecord, state: _State, held: Iterable[RobustList]) -> dict[str, Any]:
    stack, rseq = state.altstack, state.rseq
    return {
        "blocked_signals": state.signals.mask if state.signals is not None else None,
        "pending_signals": _pending(state.signals) if state.signals is not None else [],
        "altstack": {"start": stack.sp, "size": stack.size, "flags": stack.flags}
        if stack is not None
        else None,
        "robust_lists": [_robust_plain(walk) for walk in held],
        "rseq": {"address": rseq.address, "length": rseq.length} if rseq is not None else None,
        "clear_child_tid": record.clear_child_tid,
    }

"""What an image says of a thread beside its registers: signals, alternate stack, robust lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.futexes import Futexes
from ckpt.debug.render import render
from ckpt.objects import siginfo
from ckpt.objects.altstack import AltStack
from ckpt.objects.robust import RobustLists
from ckpt.objects.rseq import RseqRecord
from ckpt.objects.signals import ThreadSignals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.debug.inspect_types import RobustEntry, RobustList
    from ckpt.debug.symbols import AddressSpace
    from ckpt.objects.base import Records
    from ckpt.objects.task import ThreadRecord

_MAX_HELD_SHOWN: Final = 64
_MAX_PENDING_SHOWN: Final = 64
_MIN_SIGINFO_BYTES: Final = 20


class ThreadState(NamedTuple):
    """The other records about one thread, where there are any."""

    signals: ThreadSignals | None
    altstack: AltStack | None
    robust: RobustLists | None
    rseq: RseqRecord | None


NO_STATE: Final = ThreadState(None, None, None, None)


def collect_states(records: Records) -> dict[int, ThreadState]:
    """Return what there is, by tid."""
    found: dict[int, list[Any]] = {}
    kinds: tuple[type[Any], ...] = (ThreadSignals, AltStack, RobustLists, RseqRecord)
    for at, kind in enumerate(kinds):
        for record in records.of(kind):
            found.setdefault(record.tid, [None] * len(kinds))[at] = record
    return {tid: ThreadState(*parts) for tid, parts in found.items()}


def state_lines(
    record: ThreadRecord, state: ThreadState, held: Iterable[RobustList], space: AddressSpace
) -> Iterator[str]:
    """Yield the lines about a thread; `held` are its robust lists."""
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


def walk_robust_lists(record: RobustLists | None, space: AddressSpace) -> Iterator[RobustList]:
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


def state_plain(
    record: ThreadRecord, state: ThreadState, held: Iterable[RobustList]
) -> dict[str, Any]:
    """Return the same for JSON."""
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

"""A comparison of two images as lines for people, the most telling first.

Every list is cut (`... 12 more`); the JSON of the command holds everything.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.render import nothing, render
from ckpt.debug.session_views import shorten
from ckpt.debug.text import escape
from ckpt.objects import siginfo
from ckpt.objects.limits import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ckpt.debug.diff import FdChange, Growth, ImageDiff, TaskDiff, ThreadChange
    from ckpt.debug.diff_areas import AreaChange
    from ckpt.debug.diff_match import Change, RecordChange
    from ckpt.debug.diff_pages import AreaPages, PageDiff, Variable
    from ckpt.debug.session import Session

    Locate = Callable[[int], str]

_MAX_ROWS: Final = 40
_MAX_RANGES: Final = 4
_VALUE_CHARS: Final = 80
_TOLD_FIELDS: Final = (
    "regs.",
    "comm",
    "interrupted.remaining_ns",
    "interrupted.rearm.remaining_ns",
)
_CALL_FIELDS: Final = frozenset({"interrupted.name", "interrupted.kind", "interrupted.nr"})
"""Fields of a thread that the part on threads tells; of another call, everything follows."""
_SIGNALS: Final = frozenset({"sighand", "thread_signals", "process_signals"})
_TIMERS: Final = frozenset({"posix_timer", "itimers", "timer_ids"})
_GROWTH: Final = {
    "heap_bytes": "heap",
    "anonymous_bytes": "anonymous memory",
    "mapped_bytes": "mapped in all",
    "anonymous_areas": "anonymous areas",
    "stored_pages": "pages of its own",
    "threads": "threads",
    "timers": "POSIX timers",
    "pending_signals": "pending signals",
    "fds": "fds",
}
_SIGNAL_KEY: Final = re.compile(r"\[signo (\d+)\]")
_LIMIT_KEY: Final = re.compile(r"^limits\[(\d+)\]\[([01])\]$")


def diff_lines(found: ImageDiff, before: Session, after: Session) -> Iterator[str]:
    """Yield the comparison as lines that are safe to print."""
    for name, one in (("A", found.before), ("B", found.after)):
        session = before if name == "A" else after
        yield f"{name}: {one.path}: process {one.pid} ({one.comm}), taken {session.taken}"
    yield f"   {(found.after.taken_ns - found.before.taken_ns) / 1e9:+.3f} s from A to B"
    yield from (f"note: {note}" for note in found.notes)
    if found.same:
        yield "nothing differs"
        return
    for change in found.header:
        yield f"{change.field}: {shown(change.before)} -> {shown(change.after)}"
    yield from _section("processes", _task_rows(found))
    told = _refs(before), _refs(after)
    for task in found.tasks:
        locate = after.memory.locate
        yield from _growth_lines(task.growth)
        yield from _section("threads", _thread_rows(task, locate))
        yield from _section("fds", map(_fd_row, task.fds))
        yield from _section("areas", map(_area_row, task.areas))
        yield from _record_lines(found, task, told, locate)
        yield from _page_lines(task.pages)
    yield from _section("contents of memory files", map(_pages_row, found.contents))


def _refs(session: Session) -> set[int]:
    """Return the objrefs of the files that have a descriptor."""
    return {task.fds.ref(fd) for task in session.tasks.values() for fd in task.fds}


def shown(value: Any, field: str = "", locate: Locate | None = None) -> str:
    """Return one plain value as short, safe text."""
    return shorten(_rendered(value, field, locate or nothing), _VALUE_CHARS)


def _rendered(value: Any, field: str, locate: Locate) -> str:
    if isinstance(value, dict):
        return ", ".join(
            f"{escape(str(name))} {_rendered(item, str(name), locate)}"
            for name, item in value.items()
        )
    return render(value, field, locate)


def _section(name: str, rows: Iterable[str]) -> Iterator[str]:
    listed = list(rows)
    if listed:
        yield f"{name}:"
        yield from (f"  {row}" for row in listed[:_MAX_ROWS])
        if len(listed) > _MAX_ROWS:
            yield f"  ... {len(listed) - _MAX_ROWS} more"


def _task_rows(found: ImageDiff) -> Iterator[str]:
    yield from (f"new   process {pid}" for pid in found.new_tasks)
    yield from (f"gone  process {pid}" for pid in found.gone_tasks)


def _growth_lines(growth: Sequence[Growth]) -> Iterator[str]:
    changed = {one.what: one for one in growth if one.before != one.after}
    rows = []
    for what, name in _GROWTH.items():
        if what not in changed:
            continue
        one = changed[what]
        difference = one.after - one.before
        if what.endswith("_bytes"):
            row = f"{size(one.before)} -> {size(one.after)} ({'+' if difference > 0 else '-'}"
            rows.append(f"{name:17} {row}{size(abs(difference))})")
        else:
            rows.append(
                f"{name:17} {one.before} -> {one.after} ({difference:+d}{_kinds(growth, what)})"
            )
    yield from _section("growth", rows)


def _kinds(growth: Sequence[Growth], what: str) -> str:
    if what != "fds":
        return ""
    kinds = [
        f"{one.after - one.before:+d} {one.what.removeprefix('fds.')}"
        for one in growth
        if one.what.startswith("fds.") and one.before != one.after
    ]
    return f": {', '.join(kinds)}" if kinds else ""


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    if count < 10 << 20:
        return f"{count / 1024:.10g} KiB"
    return f"{count / (1 << 20):.1f} MiB"


def _thread_rows(task: TaskDiff, locate: Locate) -> Iterator[str]:
    for one in task.threads:
        if one.what != "changed":
            at = one.what == "new"
            yield f"{one.what:4}  {one.tid} ({one.comm[at]}): {one.call[at]} at {one.place[at]}"
        else:
            yield f"{one.tid} ({one.comm[1]}): {'; '.join(_thread_parts(one, locate))}"


def _thread_parts(one: ThreadChange, locate: Locate) -> Iterator[str]:
    if one.comm[0] != one.comm[1]:
        yield f"renamed from {one.comm[0]}"
    if one.call[0] != one.call[1]:
        yield f"was in {one.call[0]}, is in {one.call[1]}"
    else:
        yield f"in {one.call[1]} as before"
    if one.left_ns[0] != one.left_ns[1]:
        old_left, new_left = map(_seconds, one.left_ns)
        yield f"time left {old_left} -> {new_left}"
    if "rip" in one.registers:
        old, new = one.registers["rip"]
        yield f"rip {old:#x} ({one.place[0]}) -> {new:#x} ({one.place[1]})"
    if "rsp" in one.registers:
        old, new = one.registers["rsp"]
        yield f"rsp {old:#x} -> {new:#x} ({new - old:+d})"
    names = [name for name in one.registers if name not in ("rip", "rsp")]
    if names and len(names) <= 4:
        pairs = ((name, *one.registers[name]) for name in names)
        yield ", ".join(
            f"{name} {shown(old, 'flags', locate)} -> {shown(new, 'flags', locate)}"
            for name, old, new in pairs
        )
    elif names:
        yield f"registers {', '.join(names)}"


def _fd_row(one: FdChange) -> str:
    if one.what == "opened":
        return f"opened  fd {one.fd}: {one.after}"
    if one.what == "closed":
        return f"closed  fd {one.fd}: {one.before}"
    if one.what != "changed":
        return f"{one.what} fd {one.fd}: was {one.before}; is {one.after}"
    parts = [_change_text(change) for change in one.changes[:8]]
    return f"changed fd {one.fd}: {one.after}: {', '.join(parts)}"


def _change_text(change: Change, locate: Locate | None = None, type_: str = "") -> str:
    field, old, new = change.field, change.before, change.after
    if type_ == "limits" and (match := _LIMIT_KEY.match(field)):
        field = f"{NAMES[int(match[1])]} {'hard' if match[2] == '1' else 'soft'}"
        return f"{field}: {shown(old, 'limits')} -> {shown(new, 'limits')}"
    last = re.split(r"[.\[]", field)[-1]
    if last.endswith("_ns"):
        return f"{field}: {_seconds(old)} -> {_seconds(new)}"
    key = _SIGNAL_KEY.search(field)
    if type_ == "sighand" and key and field.endswith("]"):
        name = siginfo.name_of(int(key[1]))
        return f"{name}: {_disposition(old, locate)} -> {_disposition(new, locate)}"
    if type_ in _SIGNALS:
        field = _SIGNAL_KEY.sub(lambda found: f" {siginfo.name_of(int(found[1]))}", field)
        if last == "mask":
            return f"{field}: {_mask_text(old)} -> {_mask_text(new)}"
        if "pending" in field or field == "alarms":
            return f"{field}: {_pending_text(old)} -> {_pending_text(new)}"
    if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > _VALUE_CHARS:
        where = f" ({_vector_text(old, new)})" if type_ == "xstate" else ""
        return f"{field}: {_long_text(old, new)}{where}"
    return f"{field}: {shown(old, last, locate)} -> {shown(new, last, locate)}"


def _seconds(value: Any) -> str:
    return f"{value / 1e9:.9g} s" if isinstance(value, int) else "-"


def _long_text(old: str, new: str) -> str:
    """Return how much of two long values differs; they are bytes with surrogate escapes."""
    one, other = (text.encode("utf-8", "surrogateescape") for text in (old, new))
    if len(one) != len(other):
        return f"{len(one)} bytes -> {len(other)} bytes"
    mixed = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
    differing = mixed.to_bytes(len(one), "big")
    first = len(one) - len(differing.lstrip(b"\0"))
    return f"{len(one) - differing.count(0)} of {len(one)} bytes differ, the first at {first}"


def _vector_text(old: str, new: str) -> str:
    """Return which registers differ of two XSAVE areas in the standard (not compacted) format.

    Offsets: Intel SDM vol. 1, 10.5.1 and 13.4; AVX state stands at 576 on every CPU that has it.
    """
    one, other = (text.encode("utf-8", "surrogateescape") for text in (old, new))
    parts = [("x87 and mxcsr", 0, 160)]
    parts += [(f"xmm{number}", 160 + 16 * number, 16) for number in range(16)]
    parts += [("header", 512, 64)]
    parts += [(f"ymm{number} upper half", 576 + 16 * number, 16) for number in range(16)]
    parts += [("further components", 832, max(len(one), len(other)))]
    found = [name for name, at, size in parts if one[at : at + size] != other[at : at + size]]
    return ", ".join(found)


def _disposition(value: dict[str, Any] | None, locate: Locate | None) -> str:
    if value is None:
        return "default"
    if value["handler"] < 2:
        return ("default", "ignored")[value["handler"]]
    mask = f", blocks {siginfo.names_in(value['mask'])}" if value["mask"] else ""
    return f"{shown(value['handler'], 'handler', locate)}, flags {value['flags']:#x}{mask}"


def _mask_text(value: Any) -> str:
    return siginfo.names_in(value) if isinstance(value, int) else "-"


def _pending_text(value: Any) -> str:
    """Return queued siginfos by name; they are bytes with surrogate escapes."""
    items = value if isinstance(value, list) else [value] if value is not None else []
    data = [item.encode("utf-8", "surrogateescape") for item in items]
    names = [siginfo.name_of(siginfo.signo_of(one)) for one in data if len(one) >= 20]
    return ", ".join(names) or "none"


def _area_row(one: AreaChange) -> str:
    where = f"{one.start:#x}-{one.end:#x} {one.protection} {shorten(one.name, 200)}"
    if one.what != "changed":
        return f"{one.what:8} {where}, {size(one.bytes)}"
    parts = [_area_change(name, *pair) for name, pair in one.changes.items()]
    return f"{one.what:8} {where}: {', '.join(parts)}"


def _area_change(name: str, old: Any, new: Any) -> str:
    if name == "protection":
        return f"{old} -> {new}"
    if name == "flags":
        return " ".join(filter(None, (f"-{old}" if old else "", f"+{new}" if new else "")))
    return f"{name} {shown(old)} -> {shown(new)}"


def _record_lines(
    found: ImageDiff, task: TaskDiff, told: tuple[set[int], set[int]], locate: Locate
) -> Iterator[str]:
    """Yield what no other part has told, by what it is about."""
    groups: dict[str, list[str]] = {"signals": [], "timers": [], "everything else": []}
    lone = {one.tid for one in task.threads if one.what != "changed"}
    for record in found.records:
        changes = _untold(record, lone, told)
        if changes:
            about = "timers" if record.type in _TIMERS else "everything else"
            about = "signals" if record.type in _SIGNALS else about
            groups[about] += _record_rows(record, changes, locate)
    for name, rows in groups.items():
        yield from _section(name, rows)


def _untold(record: RecordChange, lone: set[int], told: tuple[set[int], set[int]]) -> list[Change]:
    """Return what of a record the parts on threads and descriptors have not told."""
    if record.tid in lone or record.type == "files":
        return []
    if record.type.startswith("file.") and record.ref in told[record.what != "gone"]:
        return []
    if record.type == "pipe" and record.what != "changed":
        return []  # Its ends are descriptors that were opened or closed.
    known: tuple[str, ...] = ("tids",) if record.type == "process" else ()
    if record.type == "thread":
        other_call = any(one.field in _CALL_FIELDS for one in record.changes)
        known = (*_TOLD_FIELDS, *(("interrupted.",) if other_call else ()))
    return [one for one in record.changes if not one.field.startswith(known)]


def _record_rows(record: RecordChange, changes: Sequence[Change], locate: Locate) -> Iterator[str]:
    if record.what == "changed":
        for change in changes:
            yield f"{record.title}: {_change_text(change, locate, record.type)}"
        return
    pairs = ((one.field, one.after if record.what == "new" else one.before) for one in changes)
    fields = ", ".join(f"{name} {shown(value, name, locate)}" for name, value in pairs)
    yield f"{record.what:4}  {record.title}: {shorten(fields, 200)}"


def _page_lines(pages: PageDiff) -> Iterator[str]:
    total = f"{pages.new} new, {pages.gone} gone, {pages.changed} changed"
    yield f"pages: {total}; {pages.stored_before} -> {pages.stored_after} stored"
    rows = sorted(pages.areas, key=lambda one: -(one.new + one.gone + one.changed))
    listed = [_pages_row(one) for one in rows]
    yield from (f"  {row}" for row in listed[:_MAX_ROWS])
    if len(listed) > _MAX_ROWS:
        yield f"  ... {len(listed) - _MAX_ROWS} more areas"
    yield from _section("variables", map(_variable_row, pages.variables))
    if not pages.variables_complete:
        yield "  so much differs that not every variable was looked for"


def _pages_row(one: AreaPages) -> str:
    counts = [(one.new, "new"), (one.gone, "gone"), (one.changed, "changed")]
    told = ", ".join(f"{count} {what}" for count, what in counts if count)
    ranges = [
        f"{part.start:#x}" + (f"+{part.pages}" if part.pages > 1 else "") for part in one.ranges
    ]
    where = ", ".join(ranges[:_MAX_RANGES]) + (", ..." if len(ranges) > _MAX_RANGES else "")
    return f"{shorten(one.name, 200) or hex(one.start)}: {told} (at {where})"


def _variable_row(one: Variable) -> str:
    values = one.values()
    if values is not None:
        told = f"{values[0]} -> {values[1]}"
        if max(values) >= 1 << 40:
            told = f"{values[0]:#x} -> {values[1]:#x}"
    else:
        told = f"{one.changed_bytes} of {one.size} bytes, from +{one.offset:#x}"
    kind = "code of " if one.is_function else ""
    return f"{kind}{one.name} ({one.file}, {one.address:#x}): {told}"

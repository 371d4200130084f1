"""`inspect` for people: the tree, then a screen for each process and its threads.

Threads that look the same are shown once here, never in the values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckpt.debug.inspect_text_process import process_lines
from ckpt.debug.inspect_words import duration, field, listed, signals_text, who_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.debug.inspect_types import (
        FutexWord,
        Inspection,
        ProcessReport,
        RobustEntry,
        RobustList,
        ThreadReport,
        TreeNode,
    )

_MAX_ENTRIES: Final = 16
_MAX_TIDS: Final = 12
_FEWEST_FOLDED: Final = 2


def inspection_lines(look: Inspection) -> Iterator[str]:
    """Yield the whole look as lines."""
    for note in look.notes:
        yield f"note: {note}"
    if look.tree is not None:
        yield from tree_lines(look.tree)
    for number, report in enumerate(look.processes):
        if number or look.tree is not None:
            yield ""
        yield from process_lines(report)
        yield from _all_threads_lines(report)


def tree_lines(node: TreeNode, prefix: str = "", branch: str = "") -> Iterator[str]:
    """Yield a process and those below it, a line each."""
    threads = f" ({node.threads} threads)" if node.threads > 1 else ""
    call = f"  {node.call}" if node.call else ""
    yield f"{prefix}{branch}{node.pid} {node.comm}{threads}  {node.state}{call}"
    below = prefix + {"": "", "|-": "| ", "`-": "  "}[branch]
    for child in node.children:
        last = child is node.children[-1]
        yield from tree_lines(child, below + ("" if branch else " "), "`-" if last else "|-")


def _all_threads_lines(report: ProcessReport) -> Iterator[str]:
    """Yield each thread's screen; of those that look the same, the first one's."""
    groups: dict[object, list[ThreadReport]] = {}
    for thread in report.threads:
        groups.setdefault(_likeness(thread), []).append(thread)
    for group in groups.values():
        yield from thread_lines(group[0])
        if len(group) >= _FEWEST_FOLDED:
            yield from _folded_lines(group[1:])
    hidden = report.thread_count - len(report.threads)
    if hidden:
        yield f"  ({hidden} other threads of the process are not shown)"


def _likeness(thread: ThreadReport) -> object:
    """Return what threads have in common that need not be shown twice."""
    is_special = (
        thread.pending
        or thread.tracer is not None
        or any(robust.entries or robust.pending or robust.problem for robust in thread.robust_lists)
        or (thread.altstack is not None and thread.altstack.is_on)
        or thread.state not in "SI"
    )
    if is_special or thread.call is None:
        return thread.tid
    return (
        *(thread.state, thread.call.name, thread.kernel_stack, thread.masked, thread.differs),
        *(thread.futex.address if thread.futex else 0, thread.seccomp),
        tuple(frame.place for frame in thread.user_stack) or thread.rip,
    )


def _folded_lines(threads: Sequence[ThreadReport]) -> Iterator[str]:
    names = [str(thread.tid) for thread in threads]
    more = [f"and {len(names) - _MAX_TIDS} more"] if len(names) > _MAX_TIDS else []
    times = [thread.blocked.since_ns for thread in threads if thread.blocked is not None]
    spread = f", for {duration(min(times))} to {duration(max(times))}" if times else ""
    shown = " ".join([*names[:_MAX_TIDS], *more])
    yield f"  {len(threads)} more like this one{spread}: {shown}"


def thread_lines(thread: ThreadReport) -> Iterator[str]:
    """Yield the screen of one thread."""
    yield _head(thread)
    yield from _call_lines(thread)
    if thread.kernel_stack is not None:
        yield from field("kernel", thread.kernel_stack)
    yield from _user_lines(thread)
    yield from _restart_lines(thread)
    for robust in thread.robust_lists:
        yield from _robust_lines(robust, thread.tgid)
    yield from _signal_lines(thread)
    yield from _attribute_lines(thread)
    for gap in thread.gaps:
        yield from field("not known", [gap])


def _head(thread: ThreadReport) -> str:
    words = [f"thread {thread.tid} {thread.comm}: {thread.state} ({thread.state_text})"]
    if thread.blocked is not None:
        words.append(f"for {duration(thread.blocked.since_ns)} ({thread.blocked.source})")
    if thread.cpu is not None and thread.state in "RSD":
        words.append(f"CPU {thread.cpu}")
    return ", ".join(words)


def _call_lines(thread: ThreadReport) -> Iterator[str]:
    lines = [thread.call.text] if thread.call is not None else []
    if thread.call_note:
        lines.append(thread.call_note)
    if thread.deadline is not None:
        ends = thread.deadline
        left = f"ends in {duration(ends.left_ns)}"
        if ends.left_ns < 0:
            left = f"was to end {duration(-ends.left_ns)} ago"
        lines.append(f"{left} ({ends.clock}, by {ends.source})")
    yield from field("call", lines)
    if thread.futex is not None:
        yield from field("futex", _futex_lines(thread.futex, thread))


def _futex_lines(word: FutexWord, thread: ThreadReport) -> list[str]:
    value = "cannot be read" if word.value is None else f"holds {word.value:#x}"
    lines = [f"{_place(word)} {value}{_owner_text(word)}"]
    others = [who_text(who, thread.tgid) for who in word.waiters if who.tid != thread.tid]
    if others:
        lines.append(f"also waited for by {listed(others)}")
    return lines


def _place(word: FutexWord) -> str:
    return f"{word.address:#x} ({word.place})" if word.place else f"{word.address:#x}"


def _owner_text(word: FutexWord) -> str:
    text = f": owned by thread {word.owner_tid} ({word.owner})" if word.owner_tid else ""
    text += ", FUTEX_WAITERS" if word.has_waiters else ""
    return text + (", FUTEX_OWNER_DIED" if word.owner_died else "")


def _user_lines(thread: ThreadReport) -> Iterator[str]:
    frames = [f"{frame.address:#014x} {frame.place}".rstrip() for frame in thread.user_stack]
    if thread.user_stack and thread.rsp is not None:
        yield from field("user", [*frames, f"(rsp {thread.rsp:#x})"])
    elif thread.rip is not None:
        yield from field("user", [f"rip {thread.rip:#x}, rsp {thread.rsp or 0:#x}"])
    if thread.instructions:
        code = [
            f"{'=>' if line.is_next else '  '} {line.address:#014x} {line.text}"
            for line in thread.instructions
        ]
        yield from field("code", code)
    if thread.build_id:
        yield from field("build-id", [thread.build_id])


def _restart_lines(thread: ThreadReport) -> Iterator[str]:
    restart = thread.restart
    if restart is None:
        return
    arguments = ", ".join(f"{name} {text}" for name, text in restart.arguments.items())
    lines = [f"{restart.function}({arguments})"]
    if restart.left_ns is not None and restart.is_live:
        lines.append(f"{duration(restart.left_ns)} left")
    if not restart.is_live:
        lines.append("left over from an earlier call: the registers do not ask for it")
    yield from field("restart", lines)


def _robust_lines(robust: RobustList, tgid: int) -> Iterator[str]:
    if not robust.entries and robust.pending is None and not robust.problem:
        return
    kind = "compat list" if robust.is_compat else "list"
    lines = [
        f"{kind} at {robust.head:#x}: {len(robust.entries)} locks, "
        f"futex at entry{robust.futex_offset:+d}"
    ]
    lines += [_entry_text(entry, tgid) for entry in robust.entries[:_MAX_ENTRIES]]
    if len(robust.entries) > _MAX_ENTRIES:
        lines.append(f"... {len(robust.entries) - _MAX_ENTRIES} more")
    if robust.pending is not None:
        lines.append(f"being taken or released: {_entry_text(robust.pending, tgid)}")
    if robust.problem:
        lines.append(f"the list is damaged: {robust.problem}")
    yield from field("robust", lines)


def _entry_text(entry: RobustEntry, tgid: int) -> str:
    word = entry.futex
    value = "cannot be read" if word.value is None else f"{word.value:#x}"
    waiters = f", waited for by {listed([who_text(who, tgid) for who in word.waiters])}"
    kind = "PI futex " if entry.is_pi else "futex "
    return f"{kind}{_place(word)} {value}{_owner_text(word)}{waiters if word.waiters else ''}"


def _signal_lines(thread: ThreadReport) -> Iterator[str]:
    lines = []
    if thread.pending:
        lines.append(f"pending {signals_text(thread.pending)}")
    if thread.masked:
        lines.append(f"blocked {signals_text(thread.masked)}")
    if thread.saved_mask is not None:
        lines.append(f"blocked again after this call: {signals_text(thread.saved_mask)}")
    yield from field("signals", lines)
    stack = thread.altstack
    if stack is not None:
        where = {True: "the thread is on it", False: "the thread is not on it", None: ""}
        words = [f"{stack.address:#x}, {stack.size} bytes", stack.flags, where[stack.is_on]]
        yield from field("altstack", [", ".join(filter(None, words))])


def _attribute_lines(thread: ThreadReport) -> Iterator[str]:
    if thread.tracer is not None:
        yield from field("traced", [f"by {who_text(thread.tracer)}"])
    if thread.rseq is not None:
        state = thread.rseq
        cpu = "" if state.cpu is None else f", CPU {state.cpu}"
        section = f", critical section {state.critical_section}" if state.critical_section else ""
        text = f"{state.address:#x}, {state.length} bytes, signature {state.signature:#x}"
        yield from field("rseq", [f"{text}{cpu}{section}"])
    if thread.seccomp != "off" or thread.no_new_privs:
        privileges = f"{thread.seccomp}{', no_new_privs' if thread.no_new_privs else ''}"
        yield from field("seccomp", [privileges])
    if thread.differs:
        yield from field("its own", [", ".join(thread.differs)])
    cpu_time = "" if thread.cpu_time_ns is None else f"{duration(thread.cpu_time_ns)} of CPU, "
    switches = f"{thread.nvcsw} voluntary and {thread.nivcsw} forced switches"
    yield from field("ran", [cpu_time + switches])

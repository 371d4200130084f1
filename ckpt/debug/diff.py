"""What changed between two images of a process.

    from ckpt.debug.diff import compare_images
    from ckpt.debug.session import open_session

    with open_session("before.ckpt") as before, open_session("after.ckpt") as after:
        found = compare_images(before, after)

`ImageDiff` is complete: `records` holds every field of every record that differs, and the other
parts say the same, and what is in areas and pages, by what it is about. Nothing here prints.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.debug.diff_areas import AreaChange, compare_areas, find_segments
from ckpt.debug.diff_match import Change, Matching, RecordChange, compare_records, is_same_file
from ckpt.debug.diff_pages import AreaPages, PageDiff, compare_contents, compare_pages
from ckpt.debug.session_threads import signed
from ckpt.debug.text import escape, escape_bytes
from ckpt.errors import RefusedError
from ckpt.objects.file_kinds.inode import InodeContent
from ckpt.objects.vma_flags import Vm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.session import Session
    from ckpt.debug.session_files import Fds
    from ckpt.debug.session_tasks import Task
    from ckpt.debug.session_threads import Thread

_PAGE: Final = 4096


class Summary(NamedTuple):
    """One of the two images."""

    path: str
    pid: int
    comm: str
    exe: str
    taken_ns: int
    """CLOCK_REALTIME at the freeze."""
    kernel: str


class Growth(NamedTuple):
    """One quantity that a leak makes grow, before and after."""

    what: str
    """`heap_bytes`, `anonymous_areas`, `anonymous_bytes`, `mapped_bytes`, `stored_pages`,
    `threads`, `fds`, `fds.KIND`, `timers`, `pending_signals`."""
    before: int
    after: int


class ThreadChange(NamedTuple):
    """One thread that is new, gone, or in another state."""

    what: str
    tid: int
    comm: list[str]
    """Before and after; safe to print, as all texts here; empty where there is no thread."""
    call: list[str]
    place: list[str]
    """Where rip stands."""
    left_ns: list[int | None]
    """What was left of a finite wait; None: no limit, or not known."""
    registers: dict[str, list[int]]
    """Those that differ: before and after."""


class FdChange(NamedTuple):
    """One descriptor that was opened, closed, replaced by another file, or is in another state."""

    what: str
    fd: int
    kind: str
    before: str
    """The open file in words; empty when there was none."""
    after: str
    changes: list[Change]
    """Of `changed`: fields of the open file and of the descriptor."""


class TaskDiff(NamedTuple):
    """One process that both images have."""

    pid: int
    """In the first image."""
    growth: list[Growth]
    threads: list[ThreadChange]
    fds: list[FdChange]
    areas: list[AreaChange]
    pages: PageDiff


class ImageDiff(NamedTuple):
    """Everything that differs."""

    same: bool
    """Nothing differs but when the images were taken."""
    before: Summary
    after: Summary
    notes: list[str]
    """Why a comparison may mean little, and which files' variables cannot be named."""
    new_tasks: list[int]
    gone_tasks: list[int]
    tasks: list[TaskDiff]
    contents: list[AreaPages]
    """Pages of memfds, deleted files and shared memory."""
    records: list[RecordChange]
    header: list[Change]
    """Kernel, machine and options of the snapshot; not its clocks."""


def compare_images(before: Session, after: Session) -> ImageDiff:
    """Compare two images, of one process at two times, or of whatever they are of.

    Pages are compared while their checksums are verified on the other core.

    Raises:
        RefusedError: the records of an image contradict each other.
        ImageError: pages are damaged, or cannot be read.
    """
    for session in (before, after):
        _check(session)
    with before.image.checking_pages() as one, after.image.checking_pages() as other:
        found = _compare(before, after)
        one.wait()
        other.wait()
    return found


def _check(session: Session) -> None:
    findings = session.check()
    if findings:
        what = f"{session.path}: inconsistent, nothing can be said of it"
        raise RefusedError(what, findings, hint="look at it with `ckpt-bpf show`")


def _compare(before: Session, after: Session) -> ImageDiff:
    matching = Matching(before.raw, after.raw)
    records = list(compare_records(matching))
    pairs = [(before.tasks[one.tgid], after.tasks[two.tgid]) for one, two in matching.processes]
    tasks = [_compare_tasks(one, other, matching, records) for one, other in pairs]
    gone = [pid for pid in before.tasks if pid not in {one.pid for one, _ in pairs}]
    new = [pid for pid in after.tasks if pid not in {other.pid for _, other in pairs}]
    contents = compare_contents(before.image, after.image, _contents(matching))
    header = list(_compare_headers(before, after))
    has_pages = any(task.areas or task.pages.areas for task in tasks)
    return ImageDiff(
        not (records or gone or new or contents or header or has_pages),
        _summary(before),
        _summary(after),
        [*_notes(before, after, pairs), *_missing(pairs, tasks)],
        new,
        gone,
        tasks,
        contents,
        records,
        header,
    )


def _summary(session: Session) -> Summary:
    task, header = session.task, session.header
    kernel = escape(header.kernel_release)
    taken_ns = header.clocks.realtime_ns
    return Summary(session.path, task.pid, task.comm, task.exe, taken_ns, kernel)


def _notes(before: Session, after: Session, pairs: list[tuple[Task, Task]]) -> Iterator[str]:
    for one, other in pairs:
        if one.pid != other.pid:
            yield (
                f"different processes ({one.pid} and {other.pid}): threads are paired by their "
                "order, memory by address"
            )
        if one.exe != other.exe:
            yield f"different programs: {one.exe} and {other.exe}"
    clocks = [session.header.clocks for session in (before, after)]
    if before.header.boot_id != after.header.boot_id:
        yield "taken on different boots: clocks cannot be compared"
    elif clocks[1].monotonic_ns < clocks[0].monotonic_ns:
        yield "the second image is the older one"
    if before.header.kernel_release != after.header.kernel_release:
        yield "taken on different kernels"


def _missing(pairs: list[tuple[Task, Task]], tasks: list[TaskDiff]) -> Iterator[str]:
    """Yield the files in whose memory pages differ, and whose symbols are not known."""
    told = set()
    for (_, task), found in zip(pairs, tasks, strict=True):
        for area in found.pages.areas:
            module = task.memory.space.module_at(area.start)
            if module is not None and module.symbols is None and module.path not in told:
                told.add(module.path)
                yield f"{escape(module.path)}: {escape(module.problem)}: variables without names"


def _compare_headers(before: Session, after: Session) -> Iterator[Change]:
    one, other = before.header, after.header
    for name in one.__struct_fields__:
        if name not in ("clocks", "boot_id") and getattr(one, name) != getattr(other, name):
            yield Change(name, getattr(one, name), getattr(other, name))


def _contents(matching: Matching) -> Iterator[tuple[int, int, int, str]]:
    """Yield the inodes whose content is in an image: both objrefs, size, name."""
    old = {one.ref: one for one in matching.before.records.of(InodeContent)}
    new = {one.ref: one for one in matching.after.records.of(InodeContent)}
    for ref, record in old.items():
        other = new.pop(matching.refs.get(ref, 0), None)
        size = max(record.size, other.size if other else 0)
        yield ref, other.ref if other else 0, size, _name_content(record)
    for ref, record in new.items():
        yield 0, ref, record.size, _name_content(record)


def _name_content(record: InodeContent) -> str:
    return f"{record.kind} {escape_bytes(record.name)}".rstrip()


def _compare_tasks(
    before: Task, after: Task, matching: Matching, records: list[RecordChange]
) -> TaskDiff:
    segments = find_segments(before.memory, after.memory, matching.label)
    pages = compare_pages(before.memory, after.memory, segments)
    return TaskDiff(
        before.pid,
        _measure_growth(before, after),
        list(_compare_threads(before, after, matching)),
        list(_compare_fds(before.fds, after.fds, matching, records)),
        list(compare_areas(segments, before.memory, after.memory)),
        pages,
    )


def _measure_growth(before: Task, after: Task) -> list[Growth]:
    old, new = _measure(before), _measure(after)
    return [Growth(what, old[what], new[what]) for what in dict.fromkeys((*old, *new))]


def _measure(task: Task) -> Counter[str]:
    """Return the quantities of one process that a leak makes grow."""
    found = Counter[str]()
    low, high = task.heap
    found["heap_bytes"] = max(high - low, 0)
    sizes = [
        area.end - area.start
        for area in task.memory.areas
        if area.file < 0 and not area.special and not area.flags & Vm.GROWSDOWN
        if not low <= area.start < high
    ]
    found["anonymous_areas"], found["anonymous_bytes"] = len(sizes), sum(sizes)
    found["mapped_bytes"] = sum(area.end - area.start for area in task.memory.areas)
    found["stored_pages"] = task.memory.space.stored.total_within(0, 1 << 64) // _PAGE
    found["threads"] = len(task.threads)
    found["timers"] = len(task.timers)
    signals = [task.signals, *(thread.signals for thread in task.threads)]
    found["pending_signals"] = sum(len(one.pending) for one in signals)
    found["fds"] = len(task.fds)
    found.update(f"fds.{task.fds.kind(fd)}" for fd in task.fds)
    return found


def _compare_threads(before: Task, after: Task, matching: Matching) -> Iterator[ThreadChange]:
    known = {thread.tid: thread for thread in before.threads}
    for thread in after.threads:
        old = known.pop(matching.tids.get(thread.tid, 0), None)
        if old is None:
            yield _thread_change("new", None, thread)
        elif old.record != thread.record:
            yield _thread_change("changed", old, thread)
    for old in known.values():
        yield _thread_change("gone", old, None)


def _thread_change(what: str, old: Thread | None, new: Thread | None) -> ThreadChange:
    both = [old, new]
    registers = {}
    if old is not None and new is not None:
        for name in old.record.regs.__struct_fields__:
            pair = [getattr(old.record.regs, name), getattr(new.record.regs, name)]
            if pair[0] != pair[1]:
                registers[name] = pair
    tid = new.tid if new is not None else old.tid if old is not None else 0
    return ThreadChange(
        what,
        tid,
        [one.comm if one is not None else "" for one in both],
        [_call_text(one) if one is not None else "" for one in both],
        [one.call.location if one is not None else "" for one in both],
        [_left_ns(one) if one is not None else None for one in both],
        registers,
    )


def _left_ns(thread: Thread) -> int | None:
    call = thread.record.interrupted
    return call.rearm.remaining_ns if call.rearm is not None else call.remaining_ns


def _call_text(thread: Thread) -> str:
    call = thread.record.interrupted
    name = escape(call.name) or "no call"
    return f"{name} ({call.kind})" if call.name else f"{name}, rax {signed(thread.record.regs.rax)}"


def _compare_fds(
    before: Fds, after: Fds, matching: Matching, records: list[RecordChange]
) -> Iterator[FdChange]:
    by_ref = {one.ref: one.changes for one in records if one.what == "changed" and one.ref}
    for fd in sorted({*before, *after}):
        old = before.get(fd)
        new = after.get(fd)
        kind = (new or old).kind  # type: ignore[union-attr]
        was, now = (one.describe().partition(": ")[2] if one else "" for one in (old, new))
        if old is None or new is None:
            yield FdChange("opened" if old is None else "closed", fd, kind, was, now, [])
            continue
        if matching.refs.get(before.ref(fd)) != after.ref(fd):
            is_same = old.record and new.record and is_same_file(old.record, new.record)
            what = "reopened" if is_same else "replaced"
            yield FdChange(what, fd, kind, was, now, [])
            continue
        changes = list(by_ref.get(after.ref(fd), ()))
        if old.cloexec != new.cloexec:
            changes.append(Change("cloexec", old.cloexec, new.cloexec))
        if changes:
            yield FdChange("changed", fd, kind, was, now, changes)


def plain(found: Any) -> Any:
    """Return a diff, or a part of one, as values of JSON's types; named tuples become objects."""
    if hasattr(found, "_asdict"):
        return {name: plain(value) for name, value in found._asdict().items()}
    if isinstance(found, list | tuple):
        return [plain(item) for item in found]
    if isinstance(found, dict):
        return {str(key): plain(value) for key, value in found.items()}
    return found

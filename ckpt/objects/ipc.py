"""What ties a process to others and is not restored yet: found here, and refused by name.

Children and unreaped zombies, tracers, AIO contexts, io_uring, System V shared memory and undo
lists. Descriptors (message queues, sockets, io_uring's own) are refused by the file kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckpt.errors import Finding
from ckpt.host.status import parse_fields, read_small

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.host.kernel_view import MmView, ThreadView
    from ckpt.objects.base import Process

_MAP_MARKS: Final = (
    (
        b"/[aio]",
        "an asynchronous I/O context (io_setup)",
        "let the program call io_destroy, or snapshot it before it uses AIO",
    ),
    (
        b"/SYSV",
        "System V shared memory",
        "detach it (shmdt), or let the program use memfd or mmap",
    ),
)


def survey(process: Process) -> Iterable[Finding]:
    """Look while the target runs; `before_views` are of the same moment."""
    return list(find_ties(process, process.before_views, traced_by_us=False))


def capture(process: Process) -> None:
    """Look again: all of this may have changed since the survey."""
    for finding in find_ties(process, process.thread_views, traced_by_us=True):
        process.refuse(finding.where, finding.what, finding.hint)


def find_ties(
    process: Process, views: dict[int, ThreadView], *, traced_by_us: bool
) -> Iterator[Finding]:
    """Yield one finding for each tie. Our own tracing of a frozen target is none."""
    for tid in process.tids or [process.living_tid]:
        view = views.get(tid)
        if view is None or view.has_children is not False:
            yield from _children(process, tid)
        if not traced_by_us:
            yield from _tracer(process, tid, view)
        if view is not None:
            yield from _hidden(tid, view)
    yield from _areas(process, process.mm_view)


def _children(process: Process, tid: int) -> Iterator[Finding]:
    try:
        children = read_small(process.path("children", tid)).split()
    except (FileNotFoundError, ProcessLookupError):
        return  # The thread has ended; its children belong to another thread now.
    for child in map(int, children):
        name, state = _name_and_state(child)
        if state == "Z":
            what = f"has a child that ended and was not waited for: {child} ({name})"
            yield Finding(f"tid {tid}", what, "the program has to call wait for it first")
        else:
            what = f"has a child: {child} ({name})"
            hint = "process trees are not restored yet; end the child, or snapshot it alone"
            yield Finding(f"tid {tid}", what, hint)


def _name_and_state(pid: int) -> tuple[str, str]:
    """Return comm and state letter; a child that is gone by now counts as living."""
    try:
        stat = read_small(f"/proc/{pid}/stat").decode("utf-8", "backslashreplace")
    except (FileNotFoundError, ProcessLookupError):
        return "gone", ""
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return name, rest.split()[0]


def _tracer(process: Process, tid: int, view: ThreadView | None) -> Iterator[Finding]:
    if view is not None:
        tracer = view.tracer_tid
    else:
        try:
            fields = parse_fields(read_small(process.path("status", tid)))
        except (FileNotFoundError, ProcessLookupError):
            return
        tracer = int(fields[b"TracerPid"])
    if tracer:
        what = f"is traced by process {tracer} ({_name_and_state(tracer)[0]})"
        yield Finding(f"tid {tid}", what, "detach the debugger or strace first")


def _hidden(tid: int, view: ThreadView) -> Iterator[Finding]:
    """Yield what only a BPF view can show."""
    where = f"tid {tid}"
    if view.has_io_uring:
        hint = "let the program close its rings; many have an option to do without io_uring"
        yield Finding(where, "uses io_uring", hint)
    if view.has_sysvsem_undo:
        hint = "the kernel would undo them when the process ends; let it release its semaphores"
        yield Finding(where, "has System V semaphore operations to undo (SEM_UNDO)", hint)


def _areas(process: Process, mm: MmView | None) -> Iterator[Finding]:
    """Yield contexts and segments, which show as areas; maps is read only if any can be there."""
    contexts = mm.aio_contexts if mm is not None else None
    if contexts is None:
        contexts = _count_aio()
    if not contexts and not _has_attached_segments():
        return
    for line in process.read("maps").splitlines():
        for mark, what, hint in _MAP_MARKS:
            if mark in line and line.split(None, 5)[5].startswith(mark):
                start = line.partition(b"-")[0].decode()
                yield Finding(f"area 0x{start}", what, hint)


def _count_aio() -> int:
    """Return how many AIO requests the whole machine has room for; 0 when nobody uses AIO."""
    try:
        return int(read_small("/proc/sys/fs/aio-nr"))
    except FileNotFoundError:
        return 0


def _has_attached_segments() -> bool:
    """Tell whether anybody in our IPC namespace is attached to System V shared memory."""
    try:
        with open("/proc/sysvipc/shm", "rb") as table:
            column = table.readline().split().index(b"nattch")
            return any(int(line.split()[column]) for line in table)
    except FileNotFoundError:
        return False

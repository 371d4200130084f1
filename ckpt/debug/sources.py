"""What a snapshot learned from whom: from BPF, from ptrace, from /proc and the descriptors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ckpt.host.observer import Observer
    from ckpt.objects.base import Process

_THREAD_FACTS: Final = {
    "restart": "restart blocks",
    "blocked_timer": "deadlines of blocked calls",
    "sas_ss_sp": "alternate signal stacks",
    "robust_list": "robust futex lists",
    "compat_robust_list": "compat robust futex lists",
    "clear_child_tid": "clear_child_tid",
    "pdeath_signal": "parent-death signals",
    "personality": "personality",
    "timer_slack_ns": "timer slack",
    "rseq": "rseq registrations",
    "securebits": "securebits",
    "sighand": "identity of mm, files, fs, sighand",
    "has_io_uring": "io_uring and undo lists",
}
_PROCESS_FACTS: Final = {
    "rlimits": "resource limits",
    "sigactions": "signal dispositions",
    "posix_timers": "POSIX timers",
    "itimer_real": "interval timers",
    "is_child_subreaper": "child-subreaper flag",
}
_MM_FACTS: Final = {
    "brk": "fields of struct mm_struct",
    "saved_auxv": "auxv",
    "ldt": "LDT",
    "aio_contexts": "AIO contexts",
    "membarrier_state": "membarrier registrations",
}
_FILE_FACTS: Final = {"file": "identity of open files", "f_op": "kinds of open files"}

_BY_PTRACE: Final = (
    "general registers",
    "XSAVE state",
    "debug registers",
    "TLS entries",
    "signal masks",
    "pending signals",
)
_BY_PROC: Final = (
    "memory layout",
    "page tables and pages",
    "names",
    "credentials",
    "scheduling",
    "session and terminal",
    "namespaces",
    "cgroups",
    "contents of open files",
)
_FALLBACK: Final = {
    "signal dispositions": "caught and ignored signals",
    "resource limits": "resource limits",
    "fields of struct mm_struct": "fields of struct mm_struct",
}
"""What /proc says without BPF, in part, of what BPF would have said."""


def list_sources(process: Process, observer: Observer | None) -> dict[str, list[str]]:
    """Return, by "bpf", "ptrace" and "proc", what each told of the frozen process.

    A fact that the kernel view did not have in this run is not among its facts. What calls run on
    stopped threads said (a view whose source is not BPF) counts as ptrace's.
    """
    found = list(dict.fromkeys(_seen(process)))
    by_bpf = observer is not None and observer.source == "bpf"
    proc = [*_BY_PROC, *(text for fact, text in _FALLBACK.items() if fact not in found)]
    return {
        "bpf": found if by_bpf else [],
        "ptrace": [*_BY_PTRACE, *([] if by_bpf else found)],
        "proc": proc,
    }


def _seen(process: Process) -> Iterator[str]:
    before, frozen = process.before_views.values(), process.thread_views.values()
    yield from _named({"blocked_timer": _THREAD_FACTS["blocked_timer"]}, before)
    yield from _named(_THREAD_FACTS, frozen)
    yield from _named(_PROCESS_FACTS, filter(None, [process.process_view]))
    yield from _named(_MM_FACTS, filter(None, [process.mm_view]))
    yield from _named(_FILE_FACTS, process.file_views.values())


def _named(facts: dict[str, str], views: Iterable[Any]) -> Iterator[str]:
    views = list(views)
    for field, name in facts.items():
        if any(getattr(view, field) is not None for view in views):
            yield name

"""What this machine would say to a restore of a process that still runs.

Modules whose facts a running process shows make their records from it, and their plans say what
they would say of an image. The trials of `ckpt check` are made for what the process needs.
"""

from __future__ import annotations

import importlib
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from ckpt.errors import Finding
from ckpt.objects import timers
from ckpt.objects.base import Builder, ProcessRecord, Records

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

    from ckpt.host.facts import HostFacts
    from ckpt.host.features import Feature
    from ckpt.objects.base import Process

_BY_LOOKING: Final = ("session", "creds", "sched", "limits", "speculation", "timens", "cgroup")
"""Modules that need nothing but /proc, and views if there are any."""
_BY_BPF: Final = ("prctl", "membarrier", "robust", "altstack", "itimers", "dispositions")
"""Modules that find most fields in views only: without BPF a stopped thread has to tell them."""
_ALWAYS: Final = (
    *("ptrace_seize", "clone3_set_tid", "set_mm_map", "pidfd_getfd", "proc_mem"),
    *("pagemap_scan", "map_files", "peek_siginfo"),
)
_SECCOMP: Final = ("suspend_seccomp", "seccomp_filters", "cap_sys_admin")
_WARNINGS: Final = frozenset(
    ("cap_sys_nice", "cap_ipc_lock", "cap_net_admin", "kcmp", "rseq_configuration", "set_mm_map")
)
"""Trials whose failure only makes a restored process differ."""
_SCHED_NORMAL: Final = 0
_NO_LIMIT: Final = (1 << 64) - 1


def planning_modules(process: Process, by_bpf: bool) -> list[ModuleType]:
    """Return the modules that can make records of the process as it runs."""
    names = [*_BY_LOOKING, *(_BY_BPF if by_bpf else ())]
    if process.process_view is not None and process.process_view.posix_timers is not None:
        names.append("timers")
    return [importlib.import_module(f"ckpt.objects.{name}") for name in names]


def ask_plan(module: ModuleType, process: Process, facts: HostFacts, by_bpf: bool) -> list[Finding]:
    """Let one module plan from records of the running process; return what it says of it."""
    before = len(process.findings)
    # Only a stopped thread tells which signals of timers are queued.
    if module is timers:
        raw: Any = timers.Raw(b"", frozenset())
    else:
        raw = module.capture(process) if hasattr(module, "capture") else None
    records = Records([_skeleton(process), *module.finish(raw, process)])
    build = Builder(facts, process.options, max(process.file_views, default=0) + 1)
    module.plan(records, build)
    captured = process.findings[before:]
    # Without BPF, what a running process does not show a stopped one may.
    return [f for f in captured if by_bpf or f.blocker] + build.findings


def _skeleton(process: Process) -> ProcessRecord:
    ref, tgid = process.identities.ref, process.tgid
    return ProcessRecord(
        tgid=tgid,
        tids=list(process.tids),
        leader_alive=process.leader_alive,
        stopped_by=0,
        mm=ref("mm", tgid),
        files=ref("files", tgid),
        fs=ref("fs", tgid),
        sighand=ref("sighand", tgid),
    )


def check_descriptors(process: Process, facts: HostFacts) -> Iterable[Finding]:
    """Warn of a table that the restored task could not have under our hard limit."""
    highest = max(process.file_views, default=0)
    if highest < facts.nofile_hard:
        return []
    what = f"fd {highest} is above the hard limit of descriptors here ({facts.nofile_hard})"
    hint = "ulimit -Hn before the restore, or LimitNOFILE= of the service"
    return [Finding(f"process {process.tgid}", what, hint)]


def needed_features(process: Process, by_bpf: bool) -> set[str]:
    """Return the names of the trials that matter for this process."""
    needed = set(_ALWAYS)
    views = process.thread_views.values()
    if any(view.seccomp_mode for view in views):
        needed.update(_SECCOMP)
    if any(view.has_syscall_user_dispatch for view in views):
        needed.add("syscall_user_dispatch")
    if any(view.policy != _SCHED_NORMAL or view.rt_priority for view in views):
        needed.add("cap_sys_nice")
    if process.mm_view is not None and process.mm_view.membarrier_state:
        needed.add("membarrier")
    if _locks_memory(process):
        needed.add("cap_ipc_lock")
    if not by_bpf:
        needed.update(("kcmp", "rseq_configuration"))
    if len(process.tids) > 1:
        needed.add("children_file")
    return needed


def _locks_memory(process: Process) -> bool:
    """Tell whether more memory is locked than the limit allows without a capability."""
    view, mm = process.process_view, process.mm_view
    if view is None or mm is None or not mm.locked_vm or len(view.rlimits) <= 8:
        return False
    limit = view.rlimits[8].soft
    return limit != _NO_LIMIT and mm.locked_vm * 4096 > limit


def try_features(needed: set[str]) -> list[Finding]:
    """Make the trials of `needed`; return a finding for each that fails."""
    from ckpt.host import try_memory, try_rights, try_tasks
    from ckpt.host.features import run_trials

    trials = chain(try_tasks.trials(), try_memory.trials(), try_rights.trials())
    features = run_trials(trial for trial in trials if trial.name in needed)
    return [_missing(feature) for feature in features if not feature.ok]


def _missing(feature: Feature) -> Finding:
    what = f"{feature.detail}: {feature.effect}" if feature.detail else feature.effect
    where = f"this machine, {feature.name}"
    return Finding(where, what, feature.remedy, blocker=feature.name not in _WARNINGS)

"""`check PID`: can a running process be snapshotted and restored here? Everything at once.

Asks whom a snapshot and a restore would ask (`ckpt.target`, each module's survey, and what its plan
says of this machine), goes on after each blocker, and stops nothing. What cannot be seen, because
of missing privileges or because only a stopped thread would tell, is named in `unseen`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt import target
from ckpt.debug import here
from ckpt.debug.running import find_outside_users, find_stuck, find_unnamed_files
from ckpt.errors import CaptureError, CkptError, Finding, HostError
from ckpt.host.probe import probe_host
from ckpt.objects.base import Options, Process
from ckpt.objects.maps_text import MapsLine, parse_maps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ckpt.debug.estimate import Estimate
    from ckpt.host.observer import Observer

_TRIES: Final = 8
_SHOWN_GAPS: Final = 64
SECCOMP_MODE_FILTER: Final = 2


class Feasibility(NamedTuple):
    """What was found about one process."""

    pid: int
    comm: bytes
    possible: bool
    findings: list[Finding]
    """Blockers first."""
    unseen: list[str]
    """What could not be looked at, and why."""
    source: str
    """Where the views came from: `bpf`, `syscalls` (/proc); empty: from nowhere."""
    estimate: Estimate | None


class _Look:
    """One pass over a process: what was found, and what could not be seen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.findings: list[Finding] = []
        self.unseen: list[str] = []
        self.source = ""
        self.estimate: Estimate | None = None

    def ask(self, what: str, look: Callable[[], Iterable[Finding]]) -> None:
        """Add what `look` finds; what it may not see is named by `what`.

        What is gone raises: then the process has changed, and all is looked at again.
        """
        try:
            self.findings += look()
        except PermissionError as error:
            self.unseen.append(f"{what}: {os.strerror(error.errno or 0)}")
        except CkptError as error:
            self.findings.append(Finding(error.where or f"pid {self.pid}", error.what, error.hint))

    def result(self) -> Feasibility:
        """Return everything, blockers first, each thing once."""
        found = sorted(_without_doubles(self.findings), key=lambda finding: not finding.blocker)
        possible = not any(finding.blocker for finding in found)
        unseen = list(dict.fromkeys(self.unseen))
        return Feasibility(
            self.pid, _read_comm(self.pid), possible, found, unseen, self.source, self.estimate
        )


def assess(pid: int, options: Options | None = None) -> Feasibility:
    """Say what stands in the way of a snapshot and a restore of process `pid`.

    Raises:
        CaptureError: there is no such process, it ends while it is looked at, or never stays the
            same for long enough.
    """
    options = options or Options()
    for _ in range(_TRIES):
        look = _Look(pid)
        try:
            if not _is_hopeless(look):
                _assess_process(look, options)
        except target.GONE as error:
            if not os.path.exists(f"/proc/{pid}"):
                raise CaptureError("no such process", where=f"pid {pid}") from error
            continue
        return look.result()
    raise CaptureError(
        "changed each time that it was looked at (threads that end, programs that are executed)",
        where=f"process {pid}",
        hint="run the check again",
    )


def _is_hopeless(look: _Look) -> bool:
    """Tell whether it is not a process that could be looked into, and say why."""
    pid, where = look.pid, f"pid {look.pid}"
    look.findings += target.find_other_kind(pid)
    if pid == os.getpid():
        look.findings.append(Finding(where, "is this program itself"))
    if look.findings:
        return True
    if pid == 1:
        look.findings.append(Finding(where, "is init, which cannot be stopped or restored"))
    if os.geteuid() != 0:
        hint = f"sudo ckpt-bpf check {pid}"
        look.findings.append(Finding(where, "only root can snapshot and restore", hint))
    look.ask("whether it is a 32-bit program", lambda: list(target.find_32_bit(pid)))
    return False


def _assess_process(look: _Look, options: Options) -> None:
    process = target.open_process(look.pid, options)
    try:
        with ExitStack() as observing:
            _observe(look, process, observing)
            for name, survey in target.surveys().items():
                look.ask(f"survey of {name}", partial(_listed, survey, process))
        look.ask("threads in state D", lambda: list(find_stuck(process)))
        _ask_for_outsiders(look, process)
        _ask_machine(look, process)
        if any(view.seccomp_mode == SECCOMP_MODE_FILTER for view in process.thread_views.values()):
            look.unseen.append(
                "seccomp filters: only a stopped thread shows them; one with a user notification "
                "listener is refused"
            )
        _assess_memory(look, process)
    finally:
        os.close(process.pidfd)


def _ask_machine(look: _Look, process: Process) -> None:
    by_bpf = look.source == "bpf"
    facts = probe_host()
    for module in here.planning_modules(process, by_bpf):
        name = module.__name__.rpartition(".")[2]
        plan = partial(here.ask_plan, module, process, facts, by_bpf)
        look.ask(f"what a restore would say of its {name}", plan)
    look.ask("descriptors here", lambda: here.check_descriptors(process, facts))
    look.ask("this machine", lambda: here.try_features(here.needed_features(process, by_bpf)))


def _ask_for_outsiders(look: _Look, process: Process) -> None:
    """Look for users outside; what is refused already need not be said again."""
    refused = {finding.where for finding in look.findings}

    def find() -> Iterable[Finding]:
        found = list(find_outside_users(process, look.source == "bpf"))
        return [finding for finding in found if finding.where not in refused]

    look.ask("users outside", find)


def _listed(survey: Callable[[Process], Iterable[Finding]], process: Process) -> list[Finding]:
    return list(survey(process))


def _observe(look: _Look, process: Process, observing: ExitStack) -> None:
    """Fill the views, from BPF if it works here, else from what /proc shows while it runs.

    The BPF observer stays open until the end of `observing`: surveys may ask it.
    """
    if not process.options.no_bpf:
        try:
            with ExitStack() as opened:
                observer = opened.enter_context(target.open_observer(process))
                target.observe_running(process, observer)
                look.source = "bpf"
                observing.enter_context(opened.pop_all())
                return
        except (HostError, PermissionError) as error:
            # A snapshot without --no-bpf would end right here.
            hint = getattr(error, "hint", "") or "run as root, or snapshot with --no-bpf"
            look.findings.append(Finding("this machine", f"BPF: {error}", hint))
        except CaptureError as error:
            if target.has_ended(process):
                raise
            look.unseen.append(f"what BPF shows: {error}")
    from ckpt.host.proc_view import ProcObserver

    observer = ProcObserver(process.pidfd, lambda: ())
    look.ask("threads", lambda: _observe_threads(look, process, observer))
    look.ask("descriptors", lambda: _observe_files(process, observer))


def _observe_threads(look: _Look, process: Process, observer: Observer) -> list[Finding]:
    view = observer.observe_threads(process.tgid)
    process.before_views = process.thread_views = view.threads
    process.process_view, process.mm_view = view.process, view.mm
    look.source = view.source
    look.unseen += [f"without BPF, {gap}" for gap in view.gaps[:_SHOWN_GAPS]]
    return []


def _observe_files(process: Process, observer: Observer) -> list[Finding]:
    files = observer.observe_files(process.living_tid)
    process.file_views = {file.fd: file for file in files}
    return []


def _assess_memory(look: _Look, process: Process) -> None:
    """Look at mapped files, and at how much there is to store."""
    lines: list[MapsLine] = []
    look.ask("areas", lambda: _read_lines(process, lines))
    contents: dict[tuple[int, int], int] = {}
    look.ask("mapped files", lambda: list(find_unnamed_files(process, lines, contents)))
    if lines:
        look.ask("size", lambda: _estimate(look, process, lines, sum(contents.values())))


def _read_lines(process: Process, lines: list[MapsLine]) -> list[Finding]:
    lines += parse_maps(process.read("maps"))
    return []


def _estimate(
    look: _Look, process: Process, lines: list[MapsLine], contents_bytes: int
) -> list[Finding]:
    from ckpt.debug.estimate import build_estimate, count_pages_bytes, measure_machine

    try:
        pages_bytes = count_pages_bytes(process, lines)
    except PermissionError:
        look.unseen.append("which pages are its own: the size is what is resident, and more")
        pages_bytes = target.estimate_bytes(process)
    counts = (len(process.tids), len(lines), len(process.file_views))
    look.estimate = build_estimate(counts, pages_bytes, contents_bytes, measure_machine())
    return []


def _without_doubles(findings: Iterable[Finding]) -> list[Finding]:
    """Leave out what is said twice; of two modules that refuse an area, the later knows more."""
    kept: dict[object, Finding] = {}
    for finding in findings:
        _, is_area, address = finding.where.rpartition("area ")
        kept[(address, finding.blocker) if is_area else (finding.where, finding.what)] = finding
    return list(kept.values())


def _read_comm(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return file.read().rstrip(b"\n")
    except OSError:
        return b""

"""The part of `inspect` for people that is about a process: what its threads share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckpt.debug.inspect_words import duration, field, listed, signals_text, who_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.inspect_types import Credentials, Limit, ProcessReport, Sharing, Timer

_MAX_IGNORED: Final = 64
_MAX_GROUPS: Final = 16
_USUAL_LIMITS: Final = frozenset(("NOFILE", "STACK", "CORE", "NPROC", "MEMLOCK"))
_MAX_TIMERS: Final = 32


def process_lines(report: ProcessReport) -> Iterator[str]:
    """Yield what is the same for all threads of a process."""
    yield f"{report.kind} {report.pid} {report.comm}: {_thread_count(report)}{_end(report)}"
    if report.cmdline:
        yield from field("command", [report.cmdline])
    if report.exe:
        yield from field("exe", [report.exe])
    yield from field("family", [_family(report)])
    yield from field("now", report.flags)
    yield from field("deadlock", [_circle(tids) for tids in report.deadlocks])
    if report.credentials is not None:
        yield from field("user", list(_credential_lines(report.credentials)))
    yield from field("signals", list(_signal_lines(report)))
    yield from field(
        "timers", [_timer_text(timer) for timer in (report.timers or ())[:_MAX_TIMERS]]
    )
    if report.limits is not None:
        yield from field("limits", [_limits_text(report.limits)])
    yield from field("shared", list(_sharing_lines(report.sharing)))
    yield from field("not known", report.gaps)


def _thread_count(report: ProcessReport) -> str:
    return "1 thread" if report.thread_count == 1 else f"{report.thread_count} threads"


def _end(report: ProcessReport) -> str:
    return f", {report.exit_status}" if report.exit_status else ""


def _family(report: ProcessReport) -> str:
    parent = "none that we see" if report.parent is None else who_text(report.parent)
    words = [f"parent {parent}"]
    if report.group or report.session:
        words.append(f"process group {report.group}, session {report.session}")
    words.append(f"terminal {report.tty}" if report.tty else "no terminal")
    return ", ".join(words)


def _credential_lines(found: Credentials) -> Iterator[str]:
    groups = " ".join(map(str, found.groups[:_MAX_GROUPS]))
    if len(found.groups) > _MAX_GROUPS:
        groups += f" and {len(found.groups) - _MAX_GROUPS} more"
    text = f"uid {_ids(found.uids)}, gid {_ids(found.gids)}"
    yield f"{text}, groups {groups}" if groups else text
    if any(value != "none" for name, value in found.capabilities.items() if name != "bounding"):
        yield f"capabilities {found.capabilities['effective']}"
    if found.securebits:
        yield f"securebits {found.securebits:#x}"


def _circle(tids: tuple[int, ...]) -> str:
    names = [f"thread {tid}" for tid in tids]
    if len(names) == 1:
        return f"{names[0]} waits for a futex that it owns itself"
    return f"{' waits for '.join([*names, names[0]])}"


def _ids(ids: tuple[int, ...]) -> str:
    """Return ids as one number if all four are the same."""
    return str(ids[0]) if len(set(ids)) == 1 else "/".join(map(str, ids))


def _signal_lines(report: ProcessReport) -> Iterator[str]:
    if report.pending:
        yield f"pending {signals_text(report.pending)}"
    if report.dispositions is None:
        return
    ignored = [one.signal for one in report.dispositions if one.handler == 1]
    for one in report.dispositions:
        if one.handler != 1:
            place = f"{one.handler:#x} ({one.place})" if one.place else f"{one.handler:#x}"
            flags = f" {one.flags}" if one.flags else ""
            mask = f", blocks {signals_text(one.mask)}" if one.mask else ""
            yield f"{one.signal} -> {place}{flags}{mask}"
    if ignored:
        yield f"ignored {signals_text(ignored[:_MAX_IGNORED])}"


def _timer_text(timer: Timer) -> str:
    left = "disarmed" if timer.left_ns is None else f"{duration(timer.left_ns)} left"
    every = f", then every {duration(timer.interval_ns)}" if timer.interval_ns else ""
    overrun = f", overrun {timer.overrun}" if timer.overrun > 0 else ""
    return f"{timer.name}: {left}{every}, {timer.clock}, {timer.notifies}{overrun}"


def _limits_text(limits: tuple[Limit, ...]) -> str:
    """Return the limits that are set, or that programs run into."""
    shown = [
        f"{limit.name} {_limit(limit.soft)}"
        + ("" if limit.soft == limit.hard else f"/{_limit(limit.hard)}")
        for limit in limits
        if limit.name in _USUAL_LIMITS and (limit.soft is not None or limit.hard is not None)
    ]
    return ", ".join(shown) or "none"


def _limit(value: int | None) -> str:
    return "unlimited" if value is None else str(value)


def _sharing_lines(sharing: tuple[Sharing, ...]) -> Iterator[str]:
    if sharing and not all(one.is_known for one in sharing):
        yield "with whom is not known without BPF"
        return
    alone = [one.what for one in sharing if not one.others]
    for one in sharing:
        if one.others:
            yield f"{one.what} with {listed([who_text(who) for who in one.others])}"
        elif one.users is not None and one.what != "mm" and one.users > one.threads:
            yield f"{one.what}: {one.users} references, {one.threads} found among its threads"
    if alone:
        yield f"{', '.join(alone)}: with nobody else"

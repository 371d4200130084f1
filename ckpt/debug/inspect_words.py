"""Small pieces of text that the screens of `inspect` are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckpt.debug.inspect_types import Who

_INDENT: Final = 12
_MAX_LISTED: Final = 8
_MANY_SIGNALS: Final = 20
_ALL_SIGNALS: Final = 64
_SECOND: Final = 1_000_000_000
_DAY_S: Final = 86_400


def field(name: str, lines: Sequence[str]) -> Iterator[str]:
    """Yield lines below one another, the first behind the field's name; none: nothing."""
    for number, line in enumerate(lines):
        head = f"  {name}" if number == 0 else ""
        yield f"{head:<{_INDENT}} {line}"


def duration(time_ns: int) -> str:
    """Return a duration as people say it, three digits or so."""
    if time_ns < 0:
        return f"-{duration(-time_ns)}"
    for unit_ns, name in ((1, "ns"), (1000, "us"), (1_000_000, "ms")):
        if time_ns < 1000 * unit_ns:
            return f"{time_ns // unit_ns} {name}"
    seconds = time_ns / _SECOND
    if seconds < 60:
        return f"{seconds:.2f} s"
    days, rest = divmod(int(seconds), _DAY_S)
    clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def who_text(who: Who, inside: int = 0) -> str:
    """Return a task as `412 (worker)`, with its process if that is another than `inside`."""
    process = f" of {who.tgid}" if who.tgid not in (0, who.tid, inside) else ""
    return f"{who.tid}{process} ({who.comm})" if who.comm else f"{who.tid}{process}"


def listed(items: Sequence[str]) -> str:
    """Join items, of many the first few."""
    more = [f"and {len(items) - _MAX_LISTED} more"] if len(items) > _MAX_LISTED else []
    return ", ".join([*items[:_MAX_LISTED], *more])


def signals_text(names: Sequence[str]) -> str:
    """Return a set of signals; of most of them, those that are missing are shorter to say."""
    if not names:
        return "none"
    if len(names) <= _MANY_SIGNALS:
        return " ".join(names)
    from ckpt.objects.siginfo import name_of

    missing = [name_of(n) for n in range(1, _ALL_SIGNALS + 1) if name_of(n) not in names]
    if not missing:
        return "all"
    return f"all but {' '.join(missing)}" if len(missing) <= _MANY_SIGNALS else " ".join(names)

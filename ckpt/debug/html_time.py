"""What a snapshot spent its time on, as bars: the freeze, and what went before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ckpt.debug.html_text import Html, duration, element, joined, percent, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckpt.image.timings import Phase, Timings

_WORDS: Final = {
    "stop": "every thread into a stop",
    "observe": "a look at everything, by BPF",
    "let go": "every thread runs again",
    "pages": "copying of memory",
    "areas": "the layout of memory",
    "files": "descriptors and what is in them",
    "cpu_state": "FPU and vector registers",
    "task": "threads and their names",
    "load BPF programs": "BPF programs from the cache, or compiled",
    "survey": "is there anything that cannot be restored",
    "make room": "disk space for the pages",
    "last look": "deadlines of blocked calls",
    "examine": "may it be snapshotted",
}
_GROUPS: Final = {"stop": "t-stop", "let go": "t-stop", "observe": "t-look", "pages": "t-pages"}
_NAMED_SHARE: Final = 0.06
"""Phases below it are too short for their names."""
_LEAST_SHARE: Final = 0.006
"""Phases below it are drawn together."""


def render_time(timings: Timings | None) -> Html:
    """Return the bars and a table; without timings, that there are none."""
    if timings is None or not timings.frozen:
        text = "This image does not tell how long its snapshot took."
        return element("p", text, class_="quiet")
    frozen, before = _total(timings.frozen), _total(timings.before)
    text = f"The process stood still for {duration(frozen)}; what could be done before "
    text += f"took {duration(before)}, while it ran."
    parts = [
        element("p", text, class_="lead"),
        element("h3", f"Frozen, {duration(frozen)}"),
        _bar(_flatten(timings.frozen)),
        _rows(_flatten(timings.frozen)),
    ]
    if before:
        parts += [element("h3", f"Before, {duration(before)}"), _bar(_flatten(timings.before))]
    parts.append(_as_table(timings))
    return joined(parts)


def _total(phases: Sequence[Phase]) -> int:
    return sum(phase.ns for phase in phases if not phase.inside)


def _flatten(phases: Sequence[Phase]) -> list[tuple[str, int]]:
    """Return names and times that add up to the whole: parts are taken off what they are in."""
    inside: dict[str, int] = {}
    for phase in phases:
        if phase.inside:
            inside[phase.inside] = inside.get(phase.inside, 0) + phase.ns
    found = []
    for phase in phases:
        taken = 0 if phase.inside else inside.get(phase.name, 0)
        found.append((phase.name, max(phase.ns - taken, 0)))
    return found


def _bar(parts: Sequence[tuple[str, int]]) -> Html:
    """Return one bar, in the order of time; what is too short to see is one part at the end."""
    total = sum(ns for _, ns in parts)
    wide = [(name, ns) for name, ns in parts if ns >= total * _LEAST_SHARE]
    rest = total - sum(ns for _, ns in wide)
    drawn = [
        element(
            "span",
            element("span", name) if ns >= total * _NAMED_SHARE else "",
            class_=_color(name, parts),
            style=f"width:{percent(ns, total)}",
            title=f"{name}: {duration(ns)} ({percent(ns, total)}){_why(name)}",
        )
        for name, ns in wide
    ]
    if rest:
        title = f"the rest: {duration(rest)}"
        drawn.append(
            element("span", class_="t-rest", style=f"width:{percent(rest, total)}", title=title)
        )
    label = ", ".join(f"{name} {duration(ns)}" for name, ns in wide)
    return element("div", *drawn, class_="bar time", role="img", aria_label=label)


def _color(name: str, parts: Sequence[tuple[str, int]]) -> str:
    """Return the class of a phase: the same in every drawing of `parts`."""
    names = [each for each, _ in parts]
    return _GROUPS.get(name, f"t-{names.index(name) % 4}")


def _why(name: str) -> str:
    return f": {_WORDS[name]}" if name in _WORDS else ""


def _rows(parts: Sequence[tuple[str, int]]) -> Html:
    """Return the longest phases, each with a bar."""
    longest = sorted(parts, key=lambda part: -part[1])[:8]
    most = longest[0][1] if longest else 0
    rows = [_rank(name, ns, most, _color(name, parts)) for name, ns in longest if ns]
    return element("ol", *rows, class_="ranks", aria_label="longest phases")


def _rank(name: str, ns: int, most: int, color: str) -> Html:
    words = element("span", _WORDS.get(name, ""), class_="quiet")
    bar = element("span", class_=color, style=f"width:{percent(ns, most)}")
    return element(
        "li",
        element("span", name, words, class_="what"),
        element("span", bar, class_="track"),
        element("span", duration(ns), class_="num"),
    )


def _as_table(timings: Timings) -> Html:
    rows = [
        (
            when,
            f"{phase.name} (part of {phase.inside})" if phase.inside else phase.name,
            element("td", duration(phase.ns), class_="num"),
        )
        for when, phases in (("before", timings.before), ("frozen", timings.frozen))
        for phase in phases
    ]
    content = table(("when", "phase", "#time"), rows, "Phases in their order")
    return element(
        "details", element("summary", "All phases"), element("div", content, class_="scroll")
    )

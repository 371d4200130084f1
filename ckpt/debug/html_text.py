"""HTML by construction: text and attributes are escaped here, and nowhere can they be forgotten.

What comes from a target or an image is plain `str`; only `element` and constants of ours are
`Html`. Control characters and invisible ones are made visible first (`ckpt.debug.text`).
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

from ckpt.debug.text import escape, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMES: Final = "\u00d7"
_VOID: Final = frozenset(("meta", "br"))
_MAX_TEXT: Final = 4096
_MAX_SHOWN: Final = 90


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


Content = str
"""What an element may hold: `Html` goes in as it is, any other text is escaped."""


def safe(content: Content) -> Html:
    """Return `content` as HTML."""
    if isinstance(content, Html):
        return content
    return Html(html.escape(escape(content[:_MAX_TEXT])))


def element(tag: str, /, *content: Content, **attributes: str | int | None) -> Html:
    """Return an element of ours; attributes that are None stay out.

    A trailing underscore of an attribute's name is cut off (`class_`), others become hyphens.
    """
    parts = [f"<{tag}"]
    for key, value in attributes.items():
        if value is not None:
            parts.append(f' {key.rstrip("_").replace("_", "-")}="{safe(str(value))}"')
    if tag in _VOID:
        return Html("".join([*parts, ">"]))
    return Html("".join([*parts, ">", *map(safe, content), f"</{tag}>"]))


def joined(parts: Iterable[Content], between: Content = "") -> Html:
    """Return parts one after the other."""
    return Html(safe(between).join(map(safe, parts)))


def short(text: str, width: int = _MAX_SHOWN) -> Html:
    """Return text that is cut to `width`; all of it (within reason) shows when pointed at."""
    if len(text) <= width:
        return safe(text)
    return element("span", shorten(text, width), title=text)


def table(head: Iterable[Content], rows: Iterable[Iterable[Content]], caption: str) -> Html:
    """Return a table; cells that are elements `td` or `th` already stay what they are.

    A title that begins with `#` stands above numbers.
    """
    titles = joined(
        element("th", title.lstrip("#"), scope="col", class_="num" if title[:1] == "#" else None)
        for title in head
    )
    body = joined(element("tr", *(cell(each) for each in row)) for row in rows)
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", titles)),
        element("tbody", body),
    )


def cell(content: Content) -> Html:
    """Return a cell of a table."""
    if isinstance(content, Html) and content.startswith(("<td", "<th")):
        return content
    return element("td", content)


def number(value: int) -> str:
    """Return a number with separators."""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """Return `1 thread`, `1,000 threads`."""
    return f"{value:,} {noun}{'s' * (value != 1)}"


def size(size_bytes: int) -> str:
    """Return a size as people read it."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size_bytes >= 1 << shift:
            value = size_bytes / (1 << shift)
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return counted(size_bytes, "byte")


def duration(ns: int) -> str:
    """Return a length of time as people read it."""
    for unit_ns, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if ns >= unit_ns:
            value = ns / unit_ns
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{ns} ns"


def percent(part: float, whole: float) -> str:
    """Return a share for a width or a height."""
    return f"{100 * part / whole:.2f}%" if whole else "0%"


def ranges(numbers: Iterable[int], limit: int = 12) -> str:
    """Return `3, 5-9, 12` of numbers in any order; what is beyond `limit` parts is counted."""
    parts: list[list[int]] = []
    for value in sorted(numbers):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in parts[:limit]]
    more = sum(high - low + 1 for low, high in parts[limit:])
    return ", ".join(texts) + (f" and {more:,} more" if more else "")

"""The map of memory as HTML: blocks by address on a compressed scale, what is stored as their fill.

The width of a block grows with the logarithm of its size, so that a page can be pointed at beside
a reservation of terabytes. Gaps are marks between groups of neighbours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ckpt.debug.html_areas import KINDS
from ckpt.debug.html_text import (
    Html,
    counted,
    element,
    joined,
    percent,
    safe,
    short,
    size,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckpt.debug.html_areas import Block

_LEAST_PX: Final = 7
_PX_A_DOUBLING: Final = 7
_GAP_SHOWN: Final = 1 << 30
_LARGEST: Final = 8
_LABELLED_PX: Final = 30
_WORTH: Final = 0.003
"""Of the largest: what holds less has no line of its own."""


def render_map(blocks: Sequence[Block]) -> Html:
    """Return legend, map, what the image's bytes are of, and all of it as a table."""
    if not blocks:
        return element("p", "The image has no areas.", class_="quiet")
    stored, mapped = _totals(blocks)
    areas = sum(block.areas for block in blocks)
    text = (
        f"{counted(areas, 'area')}, {size(sum(mapped.values()))} of addresses, "
        f"{size(sum(stored.values()))} of them stored. A block is an area, by address; its width "
        "grows with the logarithm of its size, and the solid part is the share that the image "
        "holds. Files that are unchanged are not stored: a restore maps them again."
    )
    return joined(
        (
            element("p", text, class_="lead"),
            _legend(stored, mapped),
            element("div", *_groups(blocks), class_="map", id="map"),
            element("div", id="about", class_="about", role="status", hidden=""),
            _bar(stored),
            _largest(blocks),
            _as_table(blocks),
        )
    )


def _totals(blocks: Iterable[Block]) -> tuple[dict[str, int], dict[str, int]]:
    stored: dict[str, int] = {}
    mapped: dict[str, int] = {}
    for block in blocks:
        stored[block.kind] = stored.get(block.kind, 0) + block.stored_bytes
        mapped[block.kind] = mapped.get(block.kind, 0) + block.size_bytes
    return stored, mapped


def _legend(stored: dict[str, int], mapped: dict[str, int]) -> Html:
    entries = []
    for kind, words in KINDS.items():
        if kind in mapped:
            title = f"{size(stored[kind])} of {size(mapped[kind])} stored"
            entries.append(
                element(
                    "li",
                    element("span", class_=f"swatch k-{kind}", aria_hidden="true"),
                    element("span", words),
                    element("span", size(stored[kind]), class_="quiet num"),
                    title=title,
                    data_kind=kind,
                )
            )
    return element("ul", *entries, class_="legend", aria_label="kinds of memory")


def _groups(blocks: Sequence[Block]) -> Iterator[Html]:
    """Yield groups of neighbouring blocks of one file, with marks for the gaps between them."""
    group: list[tuple[int, Block]] = []
    for index, block in enumerate(blocks):
        last = blocks[index - 1] if index else block
        gap = block.start - last.end if index else 0
        if group and (gap > 0 or block.group != last.group or not block.group):
            yield _group(group)
            group = []
        if gap > 0:
            yield _gap(gap)
        group.append((index, block))
    if group:
        yield _group(group)


def _gap(length: int) -> Html:
    text = size(length) if length >= _GAP_SHOWN else ""
    return element(
        "span",
        element("span", text) if text else "",
        class_="gap wide" if text else "gap",
        title=f"gap of {size(length)}",
    )


def _group(members: Sequence[tuple[int, Block]]) -> Html:
    total = sum(_width(block) for _, block in members) + 2 * (len(members) - 1)
    name = max((block for _, block in members), key=lambda block: block.size_bytes).name
    style = f"max-width:{total}px"
    label = element("span", name, class_="label", style=style) if total >= _LABELLED_PX else ""
    drawn = element("span", *(_block(index, block) for index, block in members), class_="blocks")
    return element("span", drawn, label, class_="group")


def _width(block: Block) -> int:
    pages = max(block.size_bytes / 4096, 1)
    return int(_LEAST_PX + _PX_A_DOUBLING * math.log2(pages))


def _block(index: int, block: Block) -> Html:
    share = block.stored_bytes / block.size_bytes if block.size_bytes else 0
    # What is there can be seen, however little it is.
    fill = max(share, 0.06) if block.stored_bytes else 0
    return element(
        "a",
        href=f"#area-{index}",
        class_=f"block k-{block.kind}" + (" bundle" if block.areas > 1 else ""),
        style=f"width:{_width(block)}px;--fill:{percent(fill, 1)}",
        title=_describe(block),
        data_kind=block.kind,
    )


def _describe(block: Block) -> str:
    share = f"{size(block.stored_bytes)} of {size(block.size_bytes)} stored"
    prot = f" {block.prot}" if block.prot else ""
    return f"{block.name} · {block.start:#x}-{block.end:#x}{prot} · {share} · {block.detail}"


def _bar(stored: dict[str, int]) -> Html:
    """Return one bar of all stored bytes, by kind."""
    total = sum(stored.values())
    if not total:
        return Html("")
    parts = [
        element(
            "span",
            class_=f"k-{kind}",
            style=f"width:{percent(stored[kind], total)}",
            title=f"{words}: {size(stored[kind])} ({percent(stored[kind], total)})",
        )
        for kind, words in KINDS.items()
        if stored.get(kind)
    ]
    label = "Stored bytes by kind: " + ", ".join(
        f"{words} {size(stored[kind])}" for kind, words in KINDS.items() if stored.get(kind)
    )
    return joined(
        (
            element("h3", "What the stored bytes are of"),
            element("div", *parts, class_="bar", role="img", aria_label=label),
        )
    )


def _largest(blocks: Sequence[Block]) -> Html:
    """Return the blocks that hold most of the image's bytes, each with a bar."""
    found = sorted(blocks, key=lambda block: -block.stored_bytes)[:_LARGEST]
    most = found[0].stored_bytes
    if not most:
        return Html("")
    rows = [
        element(
            "li",
            element(
                "span",
                short(block.name, 40),
                element("span", f"{block.start:#x}", class_="quiet mono"),
                class_="what",
            ),
            element(
                "span",
                element(
                    "span",
                    class_=f"k-{block.kind}",
                    style=f"width:{percent(block.stored_bytes, most)}",
                ),
                class_="track",
            ),
            element("span", size(block.stored_bytes), class_="num"),
            title=_describe(block),
        )
        for block in found
        if block.stored_bytes > most * _WORTH
    ]
    return element("ol", *rows, class_="ranks", aria_label="areas that hold most of the image")


def _as_table(blocks: Sequence[Block]) -> Html:
    rows = (
        (
            element("td", f"{block.start:#x}-{block.end:#x}", class_="mono", id=f"area-{index}"),
            element("td", block.prot, class_="mono"),
            joined(
                (
                    element("span", class_=f"swatch k-{block.kind}", aria_hidden="true"),
                    safe(f" {KINDS[block.kind]}"),
                )
            ),
            short(block.name, 60),
            element("td", size(block.size_bytes), class_="num"),
            element("td", size(block.stored_bytes), class_="num"),
        )
        for index, block in enumerate(blocks)
    )
    head = ("addresses", "access", "kind", "what", "#size", "#stored")
    return element(
        "details",
        element("summary", "The map as a table"),
        element("div", table(head, rows, "Areas by address"), class_="scroll"),
    )

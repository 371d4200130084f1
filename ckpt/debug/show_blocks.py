"""What every view of an image is made of: blocks, each a head line with lines below it.

A view yields blocks one by one, so that memory stays small; `--grep` and JSON work on all alike.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


class Block(NamedTuple):
    """One thing that is shown: a record, the areas of a process, a thread."""

    head: str
    lines: Sequence[str]
    """One may hold line feeds: it is shown, or not, as a whole."""
    plain: dict[str, Any]
    """The same as values of JSON's types."""
    rows: tuple[str, ...] = ()
    """The members of `plain` whose items, one after the other, belong to the lines."""


def grep_blocks(blocks: Iterable[Block], text: str) -> Iterator[Block]:
    """Yield the blocks in which `text` occurs, with those of their lines that hold it."""
    for block in blocks:
        hits = [index for index, line in enumerate(block.lines) if text in line]
        if not hits and text not in block.head:
            continue
        plain = {**block.plain, **_keep_items(block, hits)}
        yield block._replace(lines=[block.lines[index] for index in hits], plain=plain)


def _keep_items(block: Block, hits: Sequence[int]) -> dict[str, Any]:
    kept, first = {}, 0
    for name in block.rows:
        items = block.plain[name]
        kept[name] = [items[i - first] for i in hits if first <= i < first + len(items)]
        first += len(items)
    return kept


def block_lines(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield blocks as lines for people, an empty line between two."""
    for index, block in enumerate(blocks):
        if index:
            yield ""
        yield block.head
        yield from block.lines


def json_object(head: Mapping[str, Any], name: str, items: Iterable[Any]) -> Iterator[str]:
    """Yield one JSON object in parts: the members of `head`, then the list `name`."""
    yield json.dumps(head)[:-1] + (", " if head else "") + json.dumps(name) + ": ["
    yield from list_parts(items)
    yield "]}"


def list_parts(items: Iterable[Any]) -> Iterator[str]:
    """Yield the inside of a JSON list, an item a line. Everything outside ASCII is escaped."""
    for index, item in enumerate(items):
        yield ("\n" if index == 0 else ",\n") + json.dumps(item)

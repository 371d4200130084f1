"""Records that print as people read them: short, safe, addresses named by symbol.

A view gives the fields of its record under their own names; numbers in it are numbers, and print
in the base that they are read in.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ckpt.debug.render import nothing, record_lines, render, title, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable

_REPR_CHARS: Final = 160
_FIELD_CHARS: Final = 60
_SCALARS: Final = (str, bytes, bool, enum.Enum)


class Number(int):
    """An integer that prints as people read it: an address with its symbol, flags in hex.

    It is equal to, and calculates like, the number that it is; `int(number)` prints plainly.
    """

    text: str

    def __new__(cls, value: int, text: str) -> Number:
        """Make the number `value` that prints as `text`."""
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __repr__(self) -> str:
        return self.text


class View:
    """A record of an image, or a part of one.

    Its fields are attributes (`dir(view)` lists them), `repr` is one line, `print` shows every
    field on a line of its own. `view.record` is the record itself, `view.plain()` its fields as
    values of JSON's types.
    """

    __slots__ = ("_locate", "record")

    record: Any

    def __init__(self, record: Any, locate: Callable[[int], str] = nothing) -> None:
        """Show `record`, a msgspec Struct or a named tuple; `locate` names addresses."""
        self.record = record
        self._locate = locate

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in View.__slots__ or name not in field_names(self.record):
            raise AttributeError(f"{title_of(self.record)} has no field {name!r}")
        return wrap(getattr(self.record, name), name, self._locate)

    def __dir__(self) -> list[str]:
        return sorted((*field_names(self.record), "plain", "record"))

    def __eq__(self, other: object) -> bool:
        return bool(self.record == (other.record if isinstance(other, View) else other))

    def __hash__(self) -> int:
        return hash(id(self.record))

    def __repr__(self) -> str:
        parts = []
        room = _REPR_CHARS
        for name in field_names(self.record):
            if name in ("tid", "tgid", "ref", "timer_id"):
                continue
            value = getattr(self.record, name)
            text = f"{name}={self._brief(value, name)}"
            if value in (None, 0, b"", "") or len(text) > room:
                continue
            room -= len(text)
            parts.append(text)
        return f"<{': '.join(filter(None, (title_of(self.record), ', '.join(parts))))}>"

    def _brief(self, value: Any, name: str) -> str:
        if isinstance(value, list) and any(map(field_names, value)):
            return f"[{len(value)} items]"
        return shorten(render(value, name, self._locate), _FIELD_CHARS)

    def __str__(self) -> str:
        if isinstance(self.record, msgspec.Struct) and self.record.__struct_config__.tag:
            return "\n".join(record_lines(self.record, self._locate))
        names = field_names(self.record)
        rows = [(name, render(getattr(self.record, name), name, self._locate)) for name in names]
        return "\n".join(f"{name}: {text}" for name, text in rows)

    def plain(self) -> Any:
        """Return the fields as values of JSON's types; bytes with surrogate escapes (PEP 383)."""
        return to_plain(self.record)


def title_of(record: Any) -> str:
    """Return what a record is and which; of a part of one, its type in lower case."""
    if isinstance(record, msgspec.Struct) and record.__struct_config__.tag:
        return title(record)
    return type(record).__name__.removeprefix("X86").lower()


def field_names(value: Any) -> tuple[str, ...]:
    """Return the names of a Struct's or a named tuple's fields; none for anything else."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return tuple(getattr(value, "_fields", ())) if isinstance(value, tuple) else ()


def wrap(value: Any, field: str = "", locate: Callable[[int], str] = nothing) -> Any:
    """Return `value` so that it prints as people read it; texts and bytes stay as they are."""
    if value is None or isinstance(value, _SCALARS):
        return value
    if isinstance(value, int):
        text = render(value, field, locate)
        return value if text == str(value) else Number(value, text)
    if field_names(value):
        return View(value, locate)
    if isinstance(value, list | tuple):
        return type(value)(wrap(item, field, locate) for item in value)
    if isinstance(value, dict):
        return {key: wrap(item, field, locate) for key, item in value.items()}
    return value


def shorten(text: str, chars: int) -> str:
    """Return safe text cut to `chars` characters."""
    return text if len(text) <= chars else text[: chars - 3] + "..."

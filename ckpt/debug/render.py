"""Values of records as text: numbers in the base that people read them in, names made safe."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ckpt.debug.text import escape, escape_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Locate = Callable[[int], str]
    """Names what an address falls in; empty when it falls in nothing."""

_ADDRESSES: Final = frozenset(
    (
        *("rip", "rsp", "rbp", "handler", "restorer", "address", "head", "compat_head"),
        *("clear_child_tid", "abort_ip", "sp", "rmtp", "selector"),
        *("brk", "start_brk", "start_code", "end_code", "start_data", "end_data", "start_stack"),
        *("arg_start", "arg_end", "env_start", "env_end"),
    )
)
_HEX: Final = frozenset(
    (
        *("flags", "mask", "signature", "events", "personality", "securebits", "structs"),
        *("permitted", "effective", "inheritable", "bounding", "ambient", "bare", "features"),
        *("coredump_filter", "mxcsr_mask", "rdev", "dev", "seals", "data", "sigval", "eflags"),
    )
)
_OCTAL: Final = frozenset(("umask", "mode", "cwd_mode"))
_LOWEST_WIDE: Final = 1 << 32
"""From here on a number that falls into an area is taken for an address, whatever its name."""
_SMALLEST_NEGATIVE: Final = (1 << 64) - 4096
"""A result, or -1 in an unsigned field."""
_MAX_BYTES: Final = 256
_MAX_TEXT: Final = 4096
_MAX_ITEMS: Final = 1024
_TAG_FIELDS: Final = ("tid", "tgid", "ref", "timer_id")


def nothing(_address: int) -> str:
    """Name no address."""
    return ""


def title(record: msgspec.Struct) -> str:
    """Return what a record is and which: `thread 412`, `areas object 2`."""
    name = str(record.__struct_config__.tag)
    words = {"tid": "thread ", "tgid": "process ", "ref": "object ", "timer_id": "timer "}
    if name in ("thread", "process"):
        words = {"tid": "", "tgid": ""}
    which = [
        f"{words[field]}{getattr(record, field)}" for field in _TAG_FIELDS if hasattr(record, field)
    ]
    return " ".join([name.replace("_", " "), *which])


def record_lines(record: msgspec.Struct, locate: Locate = nothing) -> Iterator[str]:
    """Yield the lines of one record: its title, then a field a line."""
    yield title(record)
    for field in record.__struct_fields__:
        if field in _TAG_FIELDS:
            continue
        value = getattr(record, field)
        if isinstance(value, list) and any(_field_names(item) for item in value):
            yield f"  {field}:"
            for item in value:
                yield f"    {render(item, field, locate)}"
        else:
            yield f"  {field}: {render(value, field, locate)}"


def render(value: Any, field: str = "", locate: Locate = nothing) -> str:
    """Return one value as one line of safe text."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, enum.Enum):
        return escape(str(value.value))
    if isinstance(value, int):
        return _render_number(value, field, locate)
    if isinstance(value, bytes):
        return render_bytes(value)
    if isinstance(value, str):
        return repr(escape(value[:_MAX_TEXT])) if value else "''"
    names = _field_names(value)
    if names is not None:
        return ", ".join(f"{name} {render(getattr(value, name), name, locate)}" for name in names)
    if isinstance(value, dict):
        pairs = [(render(key), render(item, field, locate)) for key, item in value.items()]
        return _join([f"{key}: {item}" for key, item in pairs[:_MAX_ITEMS]], len(pairs))
    if isinstance(value, list | tuple):
        return _join([render(item, field, locate) for item in value[:_MAX_ITEMS]], len(value))
    return escape(str(value))


def _field_names(value: Any) -> tuple[str, ...] | None:
    """Return the names of a struct's, or a named tuple's, fields."""
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    return getattr(value, "_fields", None) if isinstance(value, tuple) else None


def _join(parts: Sequence[str], total: int) -> str:
    more = [f"... {total - len(parts)} more"] if total > len(parts) else []
    return f"[{', '.join([*parts, *more])}]"


def _render_number(value: int, field: str, locate: Locate) -> str:
    if _SMALLEST_NEGATIVE <= value < 1 << 64:
        return "unlimited" if field == "limits" else str(value - (1 << 64))
    if field in _ADDRESSES or value >= _LOWEST_WIDE:
        place = locate(value)
        if place:
            return f"{value:#x} ({place})"
    if field in _OCTAL:
        return f"{value:04o}"
    if field in _ADDRESSES or field in _HEX:
        return hex(value)
    return hex(value) if value >= 1 << 40 and not field.endswith("_ns") else str(value)


def render_bytes(value: bytes) -> str:
    """Return bytes as text if they are text, else in hex; long ones are cut and say how long."""
    shown = value[:_MAX_BYTES]
    more = f"... {len(value)} bytes" if len(value) > len(shown) else ""
    text = escape_bytes(shown)
    is_text = text == shown.decode("utf-8", "replace")
    return f"'{text}'{more}" if is_text else f"{shown.hex()}{more}"


def to_plain(value: Any) -> Any:
    """Return a value of JSON's types: bytes as text with surrogate escapes (PEP 383), lossless."""
    names = _field_names(value)
    if names is not None:
        tag = value.__struct_config__.tag if isinstance(value, msgspec.Struct) else None
        fields = {name: to_plain(getattr(value, name)) for name in names}
        return {"type": tag, **fields} if tag is not None else fields
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value

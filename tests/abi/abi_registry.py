"""The one list of every C layout and constant that this project writes down by hand.

Add a line to LAYOUTS for each ctypes structure and each ``struct`` format that mirrors a C type,
and to CONSTANTS for each block of numbers; ``test_abi.py`` compiles a C program against the
installed headers and compares. A type or constant that the installed headers may be too old for
is registered with ``optional=True``; the test then says that it was skipped.
"""

import ctypes
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ckpt.arch.x86_64 import regs


class Layout(NamedTuple):
    """What we believe about one C type: its size and where its members lie."""

    c_type: str
    headers: tuple[str, ...]
    size: int
    offsets: dict[str, int]
    """C member (``a.b[1]`` works) to offset in bytes."""
    optional: bool = False


class Constants(NamedTuple):
    """Names of C constants, or any C expressions, and the values that we wrote down."""

    headers: tuple[str, ...]
    values: dict[str, int]
    optional: bool = False


def of_ctypes(
    structure: type[ctypes.Structure],
    c_type: str,
    *headers: str,
    rename: Mapping[str, str] | None = None,
    optional: bool = False,
) -> Layout:
    """Describe a ctypes structure; ``rename`` maps our field names to C members.

    A field renamed to the empty string (padding) has no C member.
    """
    names = {field[0]: field[0] for field in structure._fields_} | dict(rename or {})
    offsets = {c: getattr(structure, ours).offset for ours, c in names.items() if c}
    return Layout(c_type, headers, ctypes.sizeof(structure), offsets, optional)


def of_format(
    form: struct.Struct | str,
    c_type: str,
    members: Sequence[str],
    *headers: str,
    optional: bool = False,
) -> Layout:
    """Describe a ``struct`` format; ``members`` has one C member a value, "" for none."""
    codes = form.format if isinstance(form, struct.Struct) else form
    offsets: dict[str, int] = {}
    for offset, member in zip(_value_offsets(codes), members, strict=True):
        if member:
            offsets[member] = offset
    return Layout(c_type, headers, struct.calcsize(codes), offsets, optional)


def _value_offsets(codes: str) -> list[int]:
    """Find the offset of each value that unpacking yields."""
    order, body = (codes[0], codes[1:]) if codes[0] in "@=<>!" else ("@", codes)
    prefix, count, offsets = order, "", []
    for code in body:
        if code.isdigit():
            count += code
            continue
        repeat = 1 if code == "s" else int(count or 1)
        for _ in range(repeat):
            item = f"{count}s" if code == "s" else code
            prefix += item
            if code != "x":
                offsets.append(struct.calcsize(prefix) - struct.calcsize(order + item))
        count = ""
    return offsets


USER = "sys/user.h"

LAYOUTS: list[Layout] = [
    of_ctypes(regs.UserRegs, "struct user_regs_struct", USER),
    of_format(regs._REGS, "struct user_regs_struct", regs.REG_NAMES, USER),
]

CONSTANTS: list[Constants] = [
    Constants(("elf.h",), {"NT_PRSTATUS": regs.NT_PRSTATUS}),
]

"""Symbols of the files that a process of an image had mapped, both ways: names and addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.text import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.space import Layout, Module


_LABELS: Final = frozenset(
    (
        *("_GLOBAL_OFFSET_TABLE_", "_DYNAMIC", "_PROCEDURE_LINKAGE_TABLE_", "__GNU_EH_FRAME_HDR"),
        *("__data_start", "data_start", "__bss_start", "_edata", "edata", "_end", "end"),
        *(
            "_etext",
            "etext",
            "__init_array_start",
            "__init_array_end",
            "__dso_handle",
            "__TMC_END__",
        ),
        *("__preinit_array_start", "__fini_array_start", "__ehdr_start", "__executable_start"),
    )
)
"""Places that linkers name (`ld --verbose`, crtbegin): not variables of the program."""


class Symbol(NamedTuple):
    """One symbol, where it is in the process."""

    name: str
    """Safe to print."""
    address: int
    size: int
    """In bytes; 0: a label."""
    is_function: bool
    file: str
    """The last part of the file's path; safe to print."""

    def __repr__(self) -> str:
        kind = "function" if self.is_function else "variable"
        return f"<{kind} {self.name} of {self.file}: {self.address:#x}, {self.size} bytes>"


def find_named(space: Layout, name: str, file: str = "") -> Iterator[Symbol]:
    """Yield the symbols of this name, at most one a file, by address of their file.

    `file`: only of files with this text in their path.
    """
    for module in space.modules():
        if module.symbols is None or file not in module.path:
            continue
        found = module.symbols.find_name(name)
        if found is not None and space.find_area(found.value + module.bias) is not None:
            place = found.value + module.bias
            yield Symbol(escape(name), place, found.size, found.is_function, _short(module))


def variable_at(space: Layout, address: int) -> Symbol | None:
    """Return the variable that holds `address`, .bss included."""
    found = symbol_at(space, address)
    return None if found is None or found.is_function else found


def symbol_at(space: Layout, address: int) -> Symbol | None:
    """Return the variable or function that `address` is in; not what it stands just behind."""
    module = space.module_at(address)
    found = space.find_symbol(address)
    if module is None or module.symbols is None or found is None:
        return None
    if not found.value <= address < found.value + found.size:
        return None
    name = module.symbols.name_of(found._replace(value=found.value - module.bias))
    if not name or name in _LABELS:
        return None
    return Symbol(name, found.value, found.size, found.is_function, _short(module))


def _short(module: Module) -> str:
    return escape(module.path.rpartition("/")[2] or module.path)

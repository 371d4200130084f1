"""The vdso: the one piece of a program's code that belongs to the kernel and not to the image.

Threads and return addresses may point into it, and libc keeps pointers to its functions, so a
restored process needs the same code at the same address. Only an equal vdso is the same; for a
different one this module says which functions differ.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

VDSO: Final = "[vdso]"
SPECIAL_NAMES: Final = (VDSO, "[vvar]", "[vvar_vclock]")
"""Mappings that the kernel installs at exec and that only mremap or ARCH_MAP_VDSO_64 can place."""
FIXED_NAMES: Final = ("[vsyscall]",)
"""Shown in maps, above user addresses, the same in every process."""


class SpecialMapping(NamedTuple):
    """One mapping of the kernel's own; half-open range."""

    name: str
    start: int
    end: int


class Symbol(NamedTuple):
    """A function of the vdso."""

    offset: int
    size_bytes: int


def hash_vdso(content: bytes) -> str:
    """Hash the bytes of a vdso, as hexadecimal digits (xxh3, 128 bits)."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(content)


def find_special(maps: Iterable[str]) -> list[SpecialMapping]:
    """Find the special mappings in the lines of a /proc/PID/maps."""
    found = []
    for line in maps:
        # The whole rest of the line: a file's path may end in " [vdso]".
        fields = line.rstrip("\n").split(maxsplit=5)
        if len(fields) == 6 and fields[5] in SPECIAL_NAMES:
            start, end = (int(part, 16) for part in fields[0].split("-"))
            found.append(SpecialMapping(fields[5], start, end))
    return found


def read_host_vdso() -> tuple[bytes, list[SpecialMapping]]:
    """Read this process's own vdso, and where its special mappings lie; b"" without a vdso."""
    with open("/proc/self/maps", encoding="ascii", errors="surrogateescape") as maps:
        special = find_special(maps)
    mapping = next((part for part in special if part.name == VDSO), None)
    if mapping is None:
        return b"", special
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(mapping.start)
        return memory.read(mapping.end - mapping.start), special


def compare_placement(image: Sequence[SpecialMapping], host: Sequence[SpecialMapping]) -> list[str]:
    """List where two sets of special mappings do not agree; the vdso finds vvar by distance."""
    theirs, ours = _distances(image), _distances(host)
    problems = []
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            there, here = (_describe(places.get(name)) for places in (theirs, ours))
            problems.append(f"{name}: {there} in the image, {here} here")
    return problems


def compare_vdso(image: bytes, host: bytes) -> list[str]:
    """List how two vdsos differ; empty when they are the same bytes."""
    if image == host:
        return []
    theirs, ours = parse_symbols(image), parse_symbols(host)
    problems = [f"{name}: missing here" for name in sorted(theirs.keys() - ours.keys())]
    problems += [f"{name}: only here" for name in sorted(ours.keys() - theirs.keys())]
    for name in sorted(theirs.keys() & ours.keys()):
        if theirs[name] != ours[name]:
            there, here = theirs[name].offset, ours[name].offset
            problems.append(f"{name}: at {there:#x} in the image, at {here:#x} here")
        elif _code(image, theirs[name]) != _code(host, ours[name]):
            problems.append(f"{name}: other code at {ours[name].offset:#x}")
    return problems or ["same functions, other bytes around them"]


def parse_symbols(content: bytes) -> dict[str, Symbol]:
    """Parse the functions that a vdso exports.

    Raises:
        ValueError: the bytes are not an ELF file with dynamic symbols.
    """
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        section = ELFFile(io.BytesIO(content)).get_section_by_name(".dynsym")
        if not isinstance(section, SymbolTableSection):
            raise ValueError("vdso: no dynamic symbols")
        return {
            symbol.name: Symbol(symbol["st_value"], symbol["st_size"])
            for symbol in section.iter_symbols()
            if symbol["st_info"]["type"] == "STT_FUNC"
        }
    except (ELFError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"vdso: {error or type(error).__name__}") from error


def _code(content: bytes, symbol: Symbol) -> bytes:
    return content[symbol.offset : symbol.offset + symbol.size_bytes]


def _distances(mappings: Sequence[SpecialMapping]) -> dict[str, tuple[int, int]]:
    """Map each name to (distance from the vdso, size); no vdso, no distances."""
    vdso = next((part for part in mappings if part.name == VDSO), None)
    if vdso is None:
        return {}
    return {part.name: (part.start - vdso.start, part.end - part.start) for part in mappings}


def _describe(place: tuple[int, int] | None) -> str:
    return f"{place[1]:#x} bytes at vdso{place[0]:+#x}" if place else "none"

"""What a debugger asks of an address space, be it an image's or a live process's.

`Space` is the question; `Layout` answers what follows from areas and mapped files alone: which area
an address is in, its module, its symbol. Where bytes come from, and how a file is opened, is the
business of whoever implements it.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from ckpt.debug.elf import ElfSymbols, read_symbols
from ckpt.debug.text import escape, escape_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckpt.debug.elf import Symbol

_MAX_READ_BYTES: Final = 128 << 20
"""Of the symbol and string tables of all files together."""
_MAX_FILES: Final = 256
_GROWSDOWN: Final = 0x100
_VDSO: Final = b"[vdso]"
_MAX_VDSO_BYTES: Final = 1 << 20
_MAX_MODULE_AREAS: Final = 256
"""Between the first part of a module and any other."""
_MAX_STEPS_BACK: Final = 8
"""Areas that the uninitialised data of one module may be cut into."""


class Area(Protocol):
    """A memory area, as `ckpt.objects.areas.Area` has it; half-open."""

    @property
    def start(self) -> int:
        """First address."""

    @property
    def end(self) -> int:
        """First address behind it."""

    @property
    def flags(self) -> int:
        """`ckpt.objects.vma_flags.Vm`"""

    @property
    def offset(self) -> int:
        """Of the file, in bytes."""

    @property
    def file(self) -> int:
        """Index of the mapped file, -1 for none."""

    @property
    def anon_name(self) -> bytes:
        """A name given by PR_SET_VMA_ANON_NAME."""

    @property
    def special(self) -> bytes:
        """`[vdso]` and its like."""


class Module(NamedTuple):
    """A mapped ELF file, or the vdso, as one process has it."""

    path: str
    """As the process saw it; escape it before it is printed."""
    bias: int
    """Run-time address minus the address that the file says."""
    symbols: ElfSymbols | None
    """None when the file is not at hand; then `problem` says why, and nothing else is known."""
    problem: str = ""

    @property
    def unwind_table(self) -> tuple[int, int]:
        """Run-time start and end of `.eh_frame_hdr`; (0, 0) without one."""
        if self.symbols is None or self.symbols.unwind_table is None:
            return 0, 0
        start, end = self.symbols.unwind_table
        return start + self.bias, end + self.bias


class Space(Protocol):
    """An address space that can be looked at."""

    def find_area(self, address: int) -> Area | None:
        """Return the area that holds `address`."""

    def locate(self, address: int) -> str:
        """Return what `address` falls in, as safe text; empty when it is not mapped."""

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the process; fewer at the first that is not known."""

    def module_at(self, address: int) -> Module | None:
        """Return the module that `address` belongs to; None outside of mapped files."""

    def find_symbol(self, address: int) -> Symbol | None:
        """Return the symbol that covers `address`, its value a run-time address."""


class OpenedFile(NamedTuple):
    """A mapped file as it was found: open and the same, or why not."""

    fd: int
    symbols: ElfSymbols | None = None
    problem: str = ""


class Layout:
    """The areas of one process and the files behind them; a base of spaces.

    Subclasses give `_open_file` and `read`. Use as a context manager: it keeps files open.
    """

    def __init__(
        self, areas: Iterable[Area], paths: Sequence[str], heap: tuple[int, int] = (0, 0)
    ) -> None:
        """Take the areas, the path of each `Area.file`, and the range of the heap."""
        self._areas = sorted(areas, key=lambda area: area.start)
        self._starts = [area.start for area in self._areas]
        self._paths = paths
        self._heap = heap
        self._opened: dict[int, OpenedFile] = {}
        self._budget = _MAX_READ_BYTES

    def close(self) -> None:
        """Close the files. May be called twice."""
        for opened in self._opened.values():
            if opened.fd >= 0:
                os.close(opened.fd)
        self._opened.clear()

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the process; fewer at the first that is not known."""
        raise NotImplementedError

    def _open_file(self, index: int) -> tuple[int, str]:
        """Return a descriptor of mapped file `index`, or -1 and why there is none."""
        raise NotImplementedError

    @property
    def areas(self) -> Sequence[Area]:
        """Every area, by address."""
        return self._areas

    def find_area(self, address: int) -> Area | None:
        """Return the area that holds `address`."""
        index = self._area_index(address)
        return None if index < 0 else self._areas[index]

    def _area_index(self, address: int) -> int:
        index = bisect_right(self._starts, address) - 1
        return -1 if index < 0 or address >= self._areas[index].end else index

    def first_area_behind(self, address: int) -> int:
        """Return the index of the first area that begins behind `address`."""
        return bisect_right(self._starts, address)

    def locate(self, address: int) -> str:
        """Return what `address` falls in, as safe text; empty when it is not mapped."""
        area = self.find_area(address)
        if area is None:
            return ""
        module = self.module_at(address)
        symbol = self.symbol_at(address, module)
        if module is not None and symbol:
            return f"{_short(module.path)} {symbol}"
        if not self._has_file(area):
            return self.name_anonymous(area)
        return f"{_short(self._paths[area.file])}+{address - area.start + area.offset:#x}"

    def symbol_at(self, address: int, module: Module | None) -> str:
        """Return `name+0x1f` as safe text; empty when no symbol of `module` covers `address`."""
        if module is None or module.symbols is None:
            return ""
        return module.symbols.name_address(address - module.bias)

    def find_symbol(self, address: int) -> Symbol | None:
        """Return the symbol that covers `address`, its value a run-time address."""
        module = self.module_at(address)
        if module is None or module.symbols is None:
            return None
        symbol = module.symbols.find_symbol(address - module.bias)
        return symbol._replace(value=symbol.value + module.bias) if symbol else None

    def module_at(self, address: int) -> Module | None:
        """Return the module that `address` belongs to: by its file, or as its zeroed data."""
        index = self._area_index(address)
        if index < 0:
            return None
        area = self._areas[index]
        if area.special == _VDSO:
            return self._vdso_module(area)
        if self._has_file(area):
            return self._file_module(index)
        owner = self._owner_of_anonymous(index)
        if owner < 0:
            return None
        module = self._file_module(owner)
        inside = module.symbols is not None and module.symbols.covers(address - module.bias)
        return module if inside else None

    def modules(self) -> Iterator[Module]:
        """Yield every mapped file once for each place where it begins, and the vdso."""
        seen = set()
        for area in self._areas:
            if not self._has_file(area) and area.special != _VDSO:
                continue
            module = self.module_at(area.start)
            if module is not None and (module.path, module.bias) not in seen:
                seen.add((module.path, module.bias))
                yield module

    def _has_file(self, area: Area) -> bool:
        return 0 <= area.file < len(self._paths)

    def _owner_of_anonymous(self, index: int) -> int:
        """Return the index of the file's area that anonymous memory follows without gap, or -1."""
        for at in range(index, max(index - _MAX_STEPS_BACK, 0), -1):
            before, area = self._areas[at - 1], self._areas[at]
            if before.end != area.start or area.special:
                return -1
            if self._has_file(before):
                return at - 1
        return -1

    def _file_module(self, index: int) -> Module:
        area = self._areas[index]
        opened = self.opened(area.file)
        path = self._paths[area.file]
        first = opened.symbols.first_load if opened.symbols is not None else (0, 0)
        bias = self._find_bias(index, *first) if first is not None else None
        if bias is None:
            at = area.offset
            at = opened.symbols.address_of_offset(at) if opened.symbols is not None else at
            bias = area.start - at
        return Module(path, bias, opened.symbols, opened.problem)

    def _find_bias(self, index: int, offset: int, address: int) -> int | None:
        """Return run-time minus file address: the file's first part, mapped last before, tells."""
        file = self._areas[index].file
        for at in range(index, max(index - _MAX_MODULE_AREAS, -1), -1):
            area = self._areas[at]
            if area.file == file and area.offset == offset:
                return area.start - address
        return None

    def opened(self, index: int) -> OpenedFile:
        """Return the mapped file `index`, opened once and kept."""
        if index not in self._opened:
            if len(self._opened) >= _MAX_FILES:
                return OpenedFile(-1, None, "too many mapped files")
            fd, problem = self._open_file(index)
            self._opened[index] = self._with_symbols(fd, problem)
        return self._opened[index]

    def _vdso_module(self, area: Area) -> Module:
        """The vdso is an ELF file that stands in memory whole."""
        if _VDSO_INDEX not in self._opened:
            content = self.read(area.start, min(area.end - area.start, _MAX_VDSO_BYTES))
            fd = os.memfd_create("vdso", os.MFD_CLOEXEC)
            os.write(fd, content)
            self._opened[_VDSO_INDEX] = self._with_symbols(fd, "" if content else "not stored")
        opened = self._opened[_VDSO_INDEX]
        if opened.symbols is None:
            return Module("[vdso]", area.start, None, opened.problem)
        bias = area.start - opened.symbols.address_of_offset(0)
        return Module("[vdso]", bias, opened.symbols)

    def _with_symbols(self, fd: int, problem: str) -> OpenedFile:
        if fd < 0:
            return OpenedFile(-1, None, problem)
        symbols = read_symbols(fd, self._budget)
        if symbols is None:
            return OpenedFile(fd, None, problem or "is not an ELF file that can be read")
        self._budget -= symbols.read_bytes
        return OpenedFile(fd, symbols)

    def name_anonymous(self, area: Area) -> str:
        """Return what an area without a file is, as safe text: `heap`, `stack`, `[vdso]`."""
        if area.special or area.anon_name:
            return escape_bytes(area.special or area.anon_name)
        if self._heap[0] <= area.start < self._heap[1]:
            return "heap"
        return "stack" if area.flags & _GROWSDOWN else "anonymous memory"


_VDSO_INDEX: Final = -1


def _short(path: str) -> str:
    return escape(path.rpartition("/")[2] or path)

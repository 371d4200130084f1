"""Names of kernel functions and their addresses, from /proc/kallsyms.

The file is slow to parse (0.3 s), so a compact table of it is cached for as long as the kernel
runs. Addresses stay inside ``ckpt.host``: they go into BPF programs and come back as names.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from functools import cached_property
from typing import Final

from ckpt.errors import HostError
from ckpt.host.bpf_cache import Cache

KALLSYMS: Final = "/proc/kallsyms"
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_COUNT: Final = struct.Struct("<Q")
_NOT_FUNCTIONS: Final = (b"__pfx_", b"__start_", b"__stop_", b"__cfi_")
"""Names for the padding in front of functions, and of places that the linker marks."""


class Symbols:
    """A sorted table of symbols. ``payload`` is what ``build_table`` made."""

    def __init__(self, payload: bytes | memoryview) -> None:
        view = memoryview(payload)
        (count,) = _COUNT.unpack_from(view)
        offsets_at = _COUNT.size + 8 * count
        self._addresses = view[_COUNT.size : offsets_at].cast("Q")
        self._offsets = view[offsets_at : offsets_at + 4 * count].cast("I")
        self._names = view[offsets_at + 4 * count :]
        self._found: dict[str, int | None] = {}

    @cached_property
    def _text(self) -> bytes:
        """All names in one piece, for searching; most runs ask for few names at few addresses."""
        return bytes(self._names)

    @cached_property
    def _text_end(self) -> int | None:
        return self.address_of("_etext")

    def address_of(self, name: str) -> int | None:
        """Return the address of the first symbol of that name."""
        if name not in self._found:
            self._found[name] = self._search(name)
        return self._found[name]

    def _search(self, name: str) -> int | None:
        found = self._text.find(b"\0" + name.encode() + b"\0")
        return None if found < 0 else self._addresses[bisect_right(self._offsets, found + 1) - 1]

    def name_at(self, address: int) -> str | None:
        """Return the symbol that starts exactly at ``address``."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0 or self._addresses[index] != address:
            return None
        return self._name(index)

    def function_at(self, address: int) -> str | None:
        """Return the function that ``address`` lies in; None outside of the kernel's own text."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0 or (self._text_end is not None and address >= self._text_end):
            return None
        return self._name(index)

    def place_at(self, address: int) -> str | None:
        """Return `function+0x1f` for an address; None outside of the kernel's own text."""
        name = self.function_at(address)
        if name is None:
            return None
        start = self._addresses[bisect_right(self._addresses, address) - 1]
        return f"{name}+{address - start:#x}"

    def _name(self, index: int) -> str:
        start = self._offsets[index]
        end = self._offsets[index + 1] if index + 1 < len(self._offsets) else len(self._names)
        return bytes(self._names[start : end - 1]).decode("ascii", "replace")


def build_table(kallsyms: bytes) -> bytes:
    """Make the table from the text of /proc/kallsyms; one name an address, the first one given.

    Raises HostError when the kernel hides the addresses.
    """
    found: dict[int, bytes] = {}
    for line in kallsyms.splitlines():
        address, _kind, name = line.split(b"\t", 1)[0].split(b" ", 2)
        if not name.startswith(_NOT_FUNCTIONS):
            found.setdefault(int(address, 16), name)
    found.pop(0, None)
    if not found:
        raise HostError(
            "the kernel hides its symbols",
            where=KALLSYMS,
            hint="set kernel.kptr_restrict to 0 or 1, and run as root; or use --no-bpf",
        )
    addresses, offsets, position = array("Q", sorted(found)), array("I"), 1
    names = [found[address] for address in addresses]
    for name in names:
        offsets.append(position)
        position += len(name) + 1
    text = b"\0" + b"\0".join(names) + b"\0"
    return _COUNT.pack(len(names)) + addresses.tobytes() + offsets.tobytes() + text


def load_symbols(cache: Cache) -> Symbols:
    """Return the running kernel's symbols, from the cache of this boot if possible."""
    entry = f"kallsyms-{_read(BOOT_ID).decode().strip()}"
    return Symbols(cache.load(entry) or refresh_symbols(cache, entry))


def refresh_symbols(cache: Cache, entry: str) -> bytes:
    """Parse /proc/kallsyms, keep the table, and forget those of earlier boots."""
    payload = build_table(_read(KALLSYMS))
    for name in cache.names():
        if name.startswith("kallsyms-"):
            cache.discard(name)
    cache.store(entry, payload)
    return payload


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

"""The address space of a live process: nothing is stopped, nothing in it is touched.

Areas come from /proc/TID/maps, bytes from /proc/TID/mem, symbols from the mapped files themselves.
The process runs on: what is read may be newer than what was seen elsewhere a moment before.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.debug.space import Layout, OpenedFile
from ckpt.debug.text import escape
from ckpt.objects.maps_text import parse_maps, unescape_path
from ckpt.objects.vma_flags import Vm

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from ckpt.debug.elf import ElfSymbols
    from ckpt.debug.symbol_store import SymbolStore
    from ckpt.objects.maps_text import MapsLine

_ADDRESS_END: Final = 1 << 63
"""pread takes a signed offset; no user address is beyond it."""
_MAX_READ_BYTES: Final = 1 << 20
_NETWORK: Final = (b"nfs", b"cifs", b"smb", b"ceph", b"fuse", b"9p", b"afs", b"lustre", b"gfs")
"""Beginnings of the names of file systems whose server may never answer."""
_ANON: Final = b"[anon:"
_ANON_SHARED: Final = b"[anon_shmem:"
_STACK: Final = b"[stack]"
_PERMISSIONS: Final = (
    (b"r", Vm.READ),
    (b"w", Vm.WRITE),
    (b"x", Vm.EXEC),
    (b"s", Vm.SHARED | Vm.MAYSHARE),
)


class LiveArea(NamedTuple):
    """One area, as maps shows it; `ckpt.debug.space.Area`."""

    start: int
    end: int
    flags: int
    """Only permissions, SHARED and GROWSDOWN: maps shows no more."""
    offset: int
    file: int
    anon_name: bytes
    special: bytes
    dev: bytes
    inode: int


class LiveSpace(Layout):
    """What a thread has mapped now. Use as a context manager, and not for long.

    Raises OSError when the process is gone, or may not be looked at.
    """

    def __init__(self, tgid: int, tid: int, store: SymbolStore, *, careful: bool = False) -> None:
        """Read the areas through the (living) thread `tid` of process `tgid`.

        `careful`: something of it hangs, so files of network file systems are left alone: whoever
        asks for them may hang as well.
        """
        self._folder = f"/proc/{tgid}/task/{tid}"
        self._tgid = tgid
        self._store = store
        with open(f"{self._folder}/maps", "rb") as file:
            lines = parse_maps(file.read())
        areas, names = _build_areas(lines)
        self._avoided = find_network_devices(_read_mounts(self._folder)) if careful else frozenset()
        super().__init__(areas, [unescape_path(name) for name in names])
        self._memory = os.open(f"{self._folder}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close memory and files. May be called twice."""
        super().close()
        if self._memory >= 0:
            os.close(self._memory)
            self._memory = -1

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of the process (at most 1 MiB); fewer at a gap, none when it has ended."""
        if not 0 < address < _ADDRESS_END or size <= 0:
            return b""
        try:
            return os.pread(self._memory, min(size, _MAX_READ_BYTES), address)
        except OSError:
            return b""

    def build_id(self, address: int) -> str:
        """Return the GNU build-id of the file that `address` lies in, in hex; empty: none."""
        from ckpt.debug.symbol_store import read_build_id

        area = self.find_area(address)
        if area is None or area.file < 0:
            return ""
        fd = self.opened(area.file).fd
        return read_build_id(fd) if fd >= 0 else ""

    def path_at(self, address: int) -> str:
        """Return the path of the file that `address` lies in, as safe text; empty: none."""
        area = self.find_area(address)
        return "" if area is None or area.file < 0 else escape(self._paths[area.file])

    def _open_file(self, index: int) -> tuple[int, str]:
        area = next(area for area in self._areas if area.file == index)
        assert isinstance(area, LiveArea)
        if area.dev in self._avoided:
            return -1, "is on a network file system, which may be what the process waits for"
        link = f"/proc/{self._tgid}/map_files/{area.start:x}-{area.end:x}"
        problem = ""
        for path in (link, f"{self._folder}/root{self._paths[index]}"):
            try:
                # stat first: to open a device could do something.
                found = os.stat(path)
                if not stat.S_ISREG(found.st_mode):
                    return -1, "is not a regular file"
                if found.st_ino != area.inode or _dev_text(found.st_dev) != area.dev:
                    problem = problem or "was replaced since it was mapped"
                    continue
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), ""
            except (OSError, ValueError) as error:
                problem = f"cannot be opened: {error}"
        return -1, problem

    def _with_symbols(self, fd: int, problem: str) -> OpenedFile:
        if fd < 0:
            return OpenedFile(-1, None, problem)
        symbols: ElfSymbols | None = self._store.symbols_of(fd)
        if symbols is None:
            problem = problem or "is not an ELF file that can be read"
        return OpenedFile(fd, symbols, problem)


def _read_mounts(folder: str) -> bytes:
    with open(f"{folder}/mountinfo", "rb") as file:
        return file.read()


def find_network_devices(mountinfo: bytes) -> frozenset[bytes]:
    """Return the devices of network file systems, as maps writes them, of /proc/TID/mountinfo."""
    found = set()
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(b" - ")
        if rest.startswith(_NETWORK):
            major, _, minor = fields.split()[2].partition(b":")
            found.add(b"%02x:%02x" % (int(major), int(minor)))
    return frozenset(found)


def _dev_text(dev: int) -> bytes:
    return b"%02x:%02x" % (os.major(dev), os.minor(dev))


def _build_areas(lines: Iterable[MapsLine]) -> tuple[list[LiveArea], list[bytes]]:
    """Return the areas, and the names of the files that they map."""
    names: list[bytes] = []
    numbers: dict[tuple[bytes, int], int] = {}
    areas = []
    for line in lines:
        file = -1
        if line.inode:
            file = numbers.setdefault((line.dev, line.inode), len(names))
            if file == len(names):
                names.append(line.name)
        areas.append(_build_area(line, file))
    return areas, names


def _build_area(line: MapsLine, file: int) -> LiveArea:
    flags = sum(bit for letter, bit in _PERMISSIONS if letter in line.perms)
    is_named = line.name.startswith((_ANON, _ANON_SHARED))
    anon_name = line.name.partition(b":")[2].removesuffix(b"]") if is_named else b""
    special = line.name if file < 0 and not is_named else b""
    if line.name == _STACK:
        flags |= Vm.GROWSDOWN
    return LiveArea(
        *(line.start, line.end, flags, line.offset, file, anon_name, special),
        *(line.dev, line.inode),
    )

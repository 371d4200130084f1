"""`show --maps`: the areas of each process as in /proc/PID/maps, and what of them is stored."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from ckpt.debug.render import to_plain
from ckpt.debug.show_blocks import Block
from ckpt.debug.symbols import AddressSpace
from ckpt.debug.text import escape, escape_bytes
from ckpt.objects.vma_flags import Vm, name_flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckpt.debug.space import Area
    from ckpt.image.reader import ImageFile
    from ckpt.objects.base import ProcessRecord, Records
    from ckpt.objects.mapped_files import MappedFile

_PROT: Final = Vm.READ | Vm.WRITE | Vm.EXEC | Vm.SHARED
_USUAL: Final = Vm.MAYREAD | Vm.MAYWRITE | Vm.MAYEXEC | Vm.MAYSHARE | Vm.ACCOUNT
_PATH_COLUMN: Final = 57


def map_blocks(image: ImageFile, records: Records) -> Iterator[Block]:
    """Yield a block a process: a line an area, then the files, then totals."""
    for process in records.processes:
        with AddressSpace(image, records, process) as space:
            yield _process_block(process, space)


def _process_block(process: ProcessRecord, space: AddressSpace) -> Block:
    areas = [(area, space.stored_bytes(area)) for area in space.areas]
    files = [_file_row(index, file, space) for index, file in enumerate(space.files)]
    guards = [(start, start + length) for start, length in space.guards]
    mapped = sum(area.end - area.start for area, _ in areas)
    stored = sum(size for _, size in areas)
    text = f"{len(areas)} areas, {human(mapped)} mapped, {human(stored)} stored"
    lines = [_area_line(area, space, size) for area, size in areas]
    lines += [f"file {line}" for line, _ in files]
    lines += [f"guard {start:x}-{end:x}" for start, end in guards]
    plain = {
        "tgid": process.tgid,
        "mapped_bytes": mapped,
        "stored_bytes": stored,
        "areas": [_area_plain(area, space, size) for area, size in areas],
        "files": [row for _, row in files],
        "guards": [{"start": start, "end": end} for start, end in guards],
    }
    rows = ("areas", "files", "guards")
    return Block(f"process {process.tgid}: {text}", lines, plain, rows)


def permissions(flags: int) -> str:
    """Return `rwxp` as in /proc/PID/maps."""
    letters = (("r", Vm.READ), ("w", Vm.WRITE), ("x", Vm.EXEC))
    shown = "".join(letter if flags & bit else "-" for letter, bit in letters)
    return shown + ("s" if flags & Vm.MAYSHARE else "p")


def human(size: int) -> str:
    """Return a size in KiB, or in the unit that keeps it short."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if size >> shift >= 10:
            return f"{size / (1 << shift):.1f} {unit}"
    return f"{size >> 10} KiB" if size % 1024 == 0 else f"{size} bytes"


def area_name(area: Area, space: AddressSpace) -> str:
    """Return the path, or what kind of memory it is, as safe text."""
    file = space.file_of(area)
    if file is not None:
        return escape(file.path)
    if area.anon_name:
        return f"[anon:{escape_bytes(area.anon_name)}]"
    name = space.name_anonymous(area)
    module = space.module_at(area.start) if name == "anonymous memory" else None
    if module is not None:
        return f"[zeroed data of {escape(module.path.rpartition('/')[2])}]"
    return name if name.startswith("[") else {"anonymous memory": ""}.get(name, f"[{name}]")


def area_notes(area: Any) -> list[str]:
    """Return what is special about an area: flags beyond the permissions, key, policy."""
    notes = name_flags(area.flags & ~(_PROT | _USUAL))
    notes += [f"pkey {area.pkey}"] if area.pkey else []
    notes += [f"pages of {area.page_kib} KiB"] if area.page_kib != 4 else []
    notes += [escape(area.policy)] if area.policy else []
    return notes


def _area_line(area: Area, space: AddressSpace, stored: int) -> str:
    file = space.file_of(area)
    dev, ino = (file.dev, file.ino) if file is not None else (0, 0)
    place = f"{_hex(area.start)}-{_hex(area.end)} {permissions(area.flags)} {_hex(area.offset)}"
    inode = f"{_dev(dev)} {ino}"
    kept = f"{human(stored)} of {human(area.end - area.start)}" if stored else "-"
    notes = ", ".join(area_notes(area))
    text = f"{place} {inode}".ljust(_PATH_COLUMN) + f" {kept:>20} {area_name(area, space)}"
    return f"{text}  ({notes})" if notes else text.rstrip()


def _hex(value: int) -> str:
    return f"{value:08x}"


def _dev(dev: int) -> str:
    try:
        return f"{os.major(dev):02x}:{os.minor(dev):02x}"
    except (OverflowError, ValueError):
        return hex(dev)


def _area_plain(area: Area, space: AddressSpace, stored: int) -> dict[str, Any]:
    file = space.file_of(area)
    return {
        "start": area.start,
        "end": area.end,
        "permissions": permissions(area.flags),
        "offset": area.offset,
        "path": None if file is None else to_plain(file.path),
        "name": area_name(area, space),
        "flags": area.flags,
        "notes": area_notes(area),
        "stored_bytes": stored,
    }


def _file_row(index: int, file: MappedFile, space: AddressSpace) -> tuple[str, dict[str, Any]]:
    """Return a mapped file as a line and as values, with how it is found on this machine."""
    opened = space.opened(index)
    if file.content:
        here = f"content in object {file.content}"
    else:
        here = "here as it was" if opened.fd >= 0 else opened.problem
    build = f"build-id {file.build_id.hex()}, " if file.build_id else ""
    line = f"{escape(file.path)}: {file.size} bytes, {build}{here}"
    return line, {
        "path": file.path,
        "size": file.size,
        "build_id": file.build_id.hex(),
        "content": file.content,
        "is_here": opened.fd >= 0,
        "state": here,
    }

"""From the records of the iterators over descriptors and areas to views. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Final

from ckpt.host import bpf_records as records
from ckpt.host.bpf_decode_process import decode_kernel_dev
from ckpt.host.f_op_names import name_f_op, name_vm_ops
from ckpt.host.kernel_view import FileView, VmaView

if TYPE_CHECKING:
    from ckpt.host.kallsyms import Symbols
    from ckpt.host.kernel_view import KernelId

_O_CLOEXEC: Final = 0o2000000
"""A property of the descriptor; some files (mqueue) also keep it, meaninglessly, in f_flags."""
_AREA_SHORT_BYTES: Final = 96
"""AREAS_SHORT_BYTES, bpf/areas.h."""
_AREA_NAME_BYTES: Final = records.AREAS_RECORD.size - _AREA_SHORT_BYTES
_READY_END_WHOLE: Final = -1
"""READY_END_WHOLE, bpf/ready.h."""
_AREA_SHORT: Final = struct.Struct(records.AREAS_RECORD.format.removesuffix("80s"))


def decode_files(
    buffer: bytes, symbols: Symbols, identify: Callable[[int], KernelId]
) -> list[FileView]:
    """Decode a descriptor table, ordered by fd."""
    name_operations = _operations_namer(symbols)
    return [
        _file(records.FilesRecord(*fields), fields[23:32], name_operations, identify)
        for fields in records.FILES_RECORD.iter_unpack(buffer)
    ]


def _operations_namer(symbols: Symbols) -> Callable[[int, tuple[int, ...]], str]:
    """Return a function that names a table, once each: there are few of them."""
    known: dict[int, str] = {0: ""}

    def name_operations(address: int, functions: tuple[int, ...]) -> str:
        name = known.get(address)
        if name is None:
            names = (symbols.name_at(function) or "" for function in functions)
            name = known[address] = symbols.name_at(address) or name_f_op(*names)
        return name

    return name_operations


@cache
def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _file(
    record: records.FilesRecord,
    functions: tuple[int, ...],
    name_operations: Callable[[int, tuple[int, ...]], str],
    identify: Callable[[int], KernelId],
) -> FileView:
    return FileView(
        fd=record.fd,
        cloexec=bool(record.cloexec),
        file=identify(record.file),
        f_op=name_operations(record.f_op, functions),
        f_count=record.f_count,
        f_mode=record.f_mode,
        f_flags=record.f_flags & ~_O_CLOEXEC,
        f_pos=record.f_pos,
        ino=record.ino,
        dev=decode_kernel_dev(record.dev),
        mode=record.mode,
        nlink=record.nlink,
        rdev=decode_kernel_dev(record.rdev),
        size=record.i_size,
        sb_magic=record.sb_magic,
        fs_type=_text(record.fs_type),
        inode=identify(record.inode),
        private=identify(record.private_data),
        anon_name=_text(record.anon_name),
        owner_pid=record.owner_pid,
        owner_type=record.owner_type,
        owner_uid=record.owner_uid,
        owner_euid=record.owner_euid,
        owner_signum=record.owner_signum,
        has_locks=bool(record.has_locks),
    )


def decode_ready(
    buffer: bytes, identify: Callable[[int], KernelId]
) -> dict[KernelId, frozenset[tuple[int, KernelId]]]:
    """Decode the ready lists of epoll instances, those that are whole."""
    found: dict[KernelId, frozenset[tuple[int, KernelId]]] = {}
    ready: list[tuple[int, KernelId]] = []
    for epoll, file, fd, _ in records.READY_RECORD.iter_unpack(buffer):
        if fd >= 0:
            ready.append((fd, identify(file)))
            continue
        if fd == _READY_END_WHOLE:
            found[identify(epoll)] = frozenset(ready)
        ready.clear()
    return found


def decode_areas(
    buffer: bytes,
    symbols: Symbols,
    identify: Callable[[int], KernelId],
    gaps: tuple[str, ...],
) -> list[VmaView]:
    """Decode the areas of an mm, ordered by address."""
    operations: dict[int, str] = {0: ""}
    no_name = None if "vm_area_struct.anon_name" in gaps else ""
    areas: list[VmaView] = []
    offset, end = 0, len(buffer)
    while offset < end:
        fields = _AREA_SHORT.unpack_from(buffer, offset)
        start, stop, flags, pgoff, file, ino, vm_ops, fault, *has, dev, is_named = fields
        offset += _AREA_SHORT_BYTES
        name = no_name
        if is_named:
            name = _text(buffer[offset : offset + _AREA_NAME_BYTES])
            offset += _AREA_NAME_BYTES
        ops = operations.get(vm_ops)
        if ops is None:
            ops = symbols.name_at(vm_ops) or name_vm_ops(symbols.name_at(fault) or "")
            operations[vm_ops] = ops
        anon_vma, policy, uffd = map(bool, has)
        file_id, device = identify(file), decode_kernel_dev(dev)
        areas.append(
            VmaView(
                start, stop, flags, pgoff, file_id, device, ino, ops, name, anon_vma, policy, uffd
            )
        )
    return areas

"""Trials of what memory is captured and restored with."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING, Final

from ckpt.host.features import Trial
from ckpt.host.syscalls import libc, syscall

if TYPE_CHECKING:
    from collections.abc import Iterable

# `arch/x86/entry/syscalls/syscall_64.tbl`, 6.18.
SYS_MMAP: Final = 9
SYS_MADVISE: Final = 28
SYS_USERFAULTFD: Final = 323
SYS_MEMBARRIER: Final = 324
SYS_PKEY_ALLOC: Final = 330
SYS_MSEAL: Final = 462
PAGEMAP_SCAN: Final = 0xC060_6610
"""_IOWR('f', 16, struct pm_scan_arg), 96 bytes, `include/uapi/linux/fs.h`, 6.18."""
MADV_GUARD_INSTALL: Final = 102
"""`include/uapi/asm-generic/mman-common.h`"""
_PAGE: Final = 4096


def trials() -> Iterable[Trial]:
    """Return the trials of this group."""
    return (
        Trial(
            "proc_mem",
            _read_own_memory,
            "memory cannot be read",
            "a kernel with CONFIG_PROC_MEM_ALWAYS_FORCE",
        ),
        Trial(
            "pagemap_scan",
            _scan,
            "finding touched pages takes longer",
            "a kernel from 6.7 on",
        ),
        Trial(
            "map_files", _list_map_files, "deleted mapped files cannot be reached", "run as root"
        ),
        Trial(
            "userfaultfd",
            _userfaultfd,
            "no incremental snapshots, no lazy restore",
            "run as root, on a kernel with CONFIG_USERFAULTFD",
        ),
        Trial(
            "guard_install",
            _install_guard,
            "images with guard pages cannot be restored",
            "a kernel from 6.13 on",
            in_child=True,
        ),
        Trial(
            "mseal",
            _seal,
            "sealed areas are restored unsealed",
            "a kernel from 6.10 on",
            in_child=True,
        ),
        Trial(
            "pkeys",
            _allocate_pkey,
            "images that use protection keys cannot be restored",
            "a CPU with protection keys",
            in_child=True,
        ),
        Trial(
            "membarrier",
            lambda: syscall(SYS_MEMBARRIER, 0, 0, 0) and None,
            "membarrier registrations cannot be restored",
            "a kernel with CONFIG_MEMBARRIER",
        ),
    )


def _read_own_memory() -> None:
    marker = ctypes.create_string_buffer(b"marker")
    fd = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.pread(fd, 6, ctypes.addressof(marker)) != b"marker":
            raise ValueError("reads something else")
    finally:
        os.close(fd)


def _scan() -> None:
    page = ctypes.create_string_buffer(2 * _PAGE)
    start = ctypes.addressof(page) & -_PAGE
    # size, flags, start, end, walk_end, vec, vec_len, max_pages, four category masks.
    argument = struct.pack("<12Q", 96, 0, start, start + _PAGE, 0, 0, 0, 0, 0, 0, 0, 1)
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        buffer = ctypes.create_string_buffer(argument, len(argument))
        syscall(16, fd, PAGEMAP_SCAN, buffer)
    finally:
        os.close(fd)


def _list_map_files() -> None:
    names = os.listdir("/proc/self/map_files")
    if not names:
        raise LookupError("empty")
    os.close(os.open(f"/proc/self/map_files/{names[0]}", os.O_RDONLY | os.O_CLOEXEC))


def _userfaultfd() -> None:
    os.close(syscall(SYS_USERFAULTFD, os.O_CLOEXEC))


def _map_page() -> int:
    libc.mmap.restype = ctypes.c_long
    return syscall(SYS_MMAP, 0, _PAGE, 3, 0x22, -1, 0)


def _install_guard() -> None:
    syscall(SYS_MADVISE, _map_page(), _PAGE, MADV_GUARD_INSTALL)


def _seal() -> None:
    syscall(SYS_MSEAL, _map_page(), _PAGE, 0)


def _allocate_pkey() -> None:
    syscall(SYS_PKEY_ALLOC, 0, 0)

"""Which pages of a process hold something of their own: PAGEMAP_SCAN, one call for all memory.

Source: `include/uapi/linux/fs.h` (struct pm_scan_arg, 96 bytes; struct page_region, 24 bytes) and
`fs/proc/task_mmu.c`, kernel 6.18.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import operator
from array import array
from typing import Final

PAGE_IS_FILE: Final = 1 << 2
PAGE_IS_PRESENT: Final = 1 << 3
PAGE_IS_SWAPPED: Final = 1 << 4
PAGE_IS_PFNZERO: Final = 1 << 5
PAGE_IS_HUGE: Final = 1 << 6
PAGE_IS_GUARD: Final = 1 << 8

_NOT_OWN: Final = PAGE_IS_FILE | PAGE_IS_PFNZERO

_PAGEMAP_SCAN: Final = 0xC0606610
"""_IOWR('f', 16, struct pm_scan_arg)"""
_REGION_WORDS: Final = 3
_REGIONS: Final = 4096
ADDRESS_END: Final = (1 << 47) - 4096
"""TASK_SIZE_MAX of 4-level paging; targets above it are found by passing another end."""


class PmScanArg(ctypes.Structure):
    """struct pm_scan_arg."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        )
    )


def scan_pages(
    pagemap_fd: int,
    *,
    inverted: int,
    mask: int,
    anyof: int,
    start: int = 0,
    end: int = ADDRESS_END,
) -> array[int]:
    """Return extents, (address, length) pairs, of the pages whose categories match.

    A page matches when `(categories ^ inverted)` has all of `mask` and some of `anyof` (0: any).

    Raises:
        OSError: ENOTTY on kernels without PAGEMAP_SCAN.
    """
    vector = array("Q", bytes(8 * _REGION_WORDS * _REGIONS))
    address, _ = vector.buffer_info()
    arg = PmScanArg(ctypes.sizeof(PmScanArg), 0, start, end, 0, address, _REGIONS, 0)
    arg.category_inverted, arg.category_mask, arg.category_anyof_mask = inverted, mask, anyof
    starts, lengths = array("Q"), array("Q")
    while arg.start < end:
        count = fcntl.ioctl(pagemap_fd, _PAGEMAP_SCAN, arg)
        words = vector[: count * _REGION_WORDS]
        starts.extend(words[0::_REGION_WORDS])
        lengths.extend(map(operator.sub, words[1::_REGION_WORDS], words[0::_REGION_WORDS]))
        if count < _REGIONS:
            break
        # walk_end may be where the kernel's own buffer of 512 regions last filled up, before the
        # regions that followed (do_pagemap_scan sets it only when the walk stops early).
        arg.start = max(arg.walk_end, words[-2])
    extents = array("Q", bytes(16 * len(starts)))
    extents[0::2], extents[1::2] = starts, lengths
    return extents


def scan_own_pages(pagemap_fd: int, skip: list[tuple[int, int]]) -> array[int]:
    """Return extents of private pages with content: present or swapped, not file, not zero page.

    `skip` are sorted (start, end) ranges that are not looked at: vvar pages cannot be read. Guard
    pages look like swapped ones and cannot be read either.
    """
    try:
        return _scan_own_pages(pagemap_fd, skip, _NOT_OWN | PAGE_IS_GUARD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A kernel that does not know guard pages by that name.
        return _scan_own_pages(pagemap_fd, skip, _NOT_OWN)


def _scan_own_pages(pagemap_fd: int, skip: list[tuple[int, int]], unwanted: int) -> array[int]:
    found = array("Q")
    start = 0
    for low, high in [*skip, (ADDRESS_END, ADDRESS_END)]:
        if start < low:
            found += scan_pages(
                pagemap_fd,
                inverted=unwanted,
                mask=unwanted,
                anyof=PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
                start=start,
                end=low,
            )
        start = max(start, high)
    return found


def scan_guard_pages(pagemap_fd: int) -> array[int]:
    """Return extents of pages marked by MADV_GUARD_INSTALL; none where the kernel has no such."""
    try:
        return scan_pages(pagemap_fd, inverted=0, mask=PAGE_IS_GUARD, anyof=0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return array("Q")

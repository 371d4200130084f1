"""Flags of memory areas, in one numbering for images: VM_* of `include/linux/mm.h` (6.18).

The low 32 bits have been stable for years; what stands above them has moved between kernels, so
those are translated by name (smaps' two-letter codes, `fs/proc/task_mmu.c`).
"""

from __future__ import annotations

import enum
from typing import Final


class Vm(enum.IntFlag, boundary=enum.KEEP):
    """VM_*; from bit 32 on the numbering is the image's own."""

    READ = 0x1
    WRITE = 0x2
    EXEC = 0x4
    SHARED = 0x8
    MAYREAD = 0x10
    MAYWRITE = 0x20
    MAYEXEC = 0x40
    MAYSHARE = 0x80
    GROWSDOWN = 0x100
    UFFD_MISSING = 0x200
    PFNMAP = 0x400
    UFFD_WP = 0x1000
    LOCKED = 0x2000
    IO = 0x4000
    SEQ_READ = 0x8000
    RAND_READ = 0x10000
    DONTCOPY = 0x20000
    DONTEXPAND = 0x40000
    LOCKONFAULT = 0x80000
    ACCOUNT = 0x100000
    NORESERVE = 0x200000
    HUGETLB = 0x400000
    SYNC = 0x800000
    ARCH_1 = 0x1000000
    WIPEONFORK = 0x2000000
    DONTDUMP = 0x4000000
    SOFTDIRTY = 0x8000000
    MIXEDMAP = 0x10000000
    HUGEPAGE = 0x20000000
    NOHUGEPAGE = 0x40000000
    MERGEABLE = 0x80000000
    SEALED = 1 << 40
    DROPPABLE = 1 << 41
    SHADOW_STACK = 1 << 42
    UFFD_MINOR = 1 << 43


_CODES: Final = {
    b"rd": Vm.READ,
    b"wr": Vm.WRITE,
    b"ex": Vm.EXEC,
    b"sh": Vm.SHARED,
    b"mr": Vm.MAYREAD,
    b"mw": Vm.MAYWRITE,
    b"me": Vm.MAYEXEC,
    b"ms": Vm.MAYSHARE,
    b"gd": Vm.GROWSDOWN,
    b"pf": Vm.PFNMAP,
    b"lo": Vm.LOCKED,
    b"io": Vm.IO,
    b"sr": Vm.SEQ_READ,
    b"rr": Vm.RAND_READ,
    b"dc": Vm.DONTCOPY,
    b"de": Vm.DONTEXPAND,
    b"lf": Vm.LOCKONFAULT,
    b"ac": Vm.ACCOUNT,
    b"nr": Vm.NORESERVE,
    b"ht": Vm.HUGETLB,
    b"sf": Vm.SYNC,
    b"ar": Vm.ARCH_1,
    b"wf": Vm.WIPEONFORK,
    b"dd": Vm.DONTDUMP,
    b"sd": Vm.SOFTDIRTY,
    b"mm": Vm.MIXEDMAP,
    b"hg": Vm.HUGEPAGE,
    b"nh": Vm.NOHUGEPAGE,
    b"mg": Vm.MERGEABLE,
    b"um": Vm.UFFD_MISSING,
    b"uw": Vm.UFFD_WP,
    b"ui": Vm.UFFD_MINOR,
    b"ss": Vm.SHADOW_STACK,
    b"dp": Vm.DROPPABLE,
    b"sl": Vm.SEALED,
}

SMAPS_CODES: Final = {code: int(flag) for code, flag in _CODES.items()}
"""Plain ints: parsing smaps adds flags by the ten thousand."""

STABLE_MASK: Final = (1 << 32) - 1
PKEY_SHIFT: Final = 32
PKEY_BITS: Final = 0xF << PKEY_SHIFT
"""VM_PKEY_BIT0..3 are VM_HIGH_ARCH_0..3 on x86_64."""

IGNORED: Final = Vm.SOFTDIRTY | Vm.ACCOUNT | Vm.DONTEXPAND
"""Not put back: the kernel's own bookkeeping."""

"""Flags of memory areas, in one numbering for images: VM_* of `include/linux/mm.h` (6.18).

The low 32 bits have been stable for years; what stands above them has moved between kernels, so
those are translated by name (smaps' two-letter codes, `fs/proc/task_mmu.c`).
"""

from __future__ import annotations

from typing import Final


class Vm:
    """VM_*; from bit 32 on the numbering is the image's own.

    Plain numbers: the arithmetic of enum members takes half a microsecond, times every flag of
    every area while the target is frozen.
    """

    READ: Final = 0x1
    WRITE: Final = 0x2
    EXEC: Final = 0x4
    SHARED: Final = 0x8
    MAYREAD: Final = 0x10
    MAYWRITE: Final = 0x20
    MAYEXEC: Final = 0x40
    MAYSHARE: Final = 0x80
    GROWSDOWN: Final = 0x100
    UFFD_MISSING: Final = 0x200
    PFNMAP: Final = 0x400
    UFFD_WP: Final = 0x1000
    LOCKED: Final = 0x2000
    IO: Final = 0x4000
    SEQ_READ: Final = 0x8000
    RAND_READ: Final = 0x10000
    DONTCOPY: Final = 0x20000
    DONTEXPAND: Final = 0x40000
    LOCKONFAULT: Final = 0x80000
    ACCOUNT: Final = 0x100000
    NORESERVE: Final = 0x200000
    HUGETLB: Final = 0x400000
    SYNC: Final = 0x800000
    ARCH_1: Final = 0x1000000
    WIPEONFORK: Final = 0x2000000
    DONTDUMP: Final = 0x4000000
    SOFTDIRTY: Final = 0x8000000
    MIXEDMAP: Final = 0x10000000
    HUGEPAGE: Final = 0x20000000
    NOHUGEPAGE: Final = 0x40000000
    MERGEABLE: Final = 0x80000000
    SEALED: Final = 1 << 40
    DROPPABLE: Final = 1 << 41
    SHADOW_STACK: Final = 1 << 42
    UFFD_MINOR: Final = 1 << 43


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


def name_flags(flags: int) -> list[str]:
    """Return the lower-case names of the known bits that are set."""
    return [name.lower() for name, bit in vars(Vm).items() if name.isupper() and flags & bit]


SMAPS_CODES: Final = {code: int(flag) for code, flag in _CODES.items()}
"""Plain ints: parsing smaps adds flags by the ten thousand."""

STABLE_MASK: Final = (1 << 32) - 1
PKEY_SHIFT: Final = 32
PKEY_BITS: Final = 0xF << PKEY_SHIFT
"""VM_PKEY_BIT0..3 are VM_HIGH_ARCH_0..3 on x86_64."""

IGNORED: Final = Vm.SOFTDIRTY | Vm.ACCOUNT | Vm.DONTEXPAND
"""Not put back: the kernel's own bookkeeping."""

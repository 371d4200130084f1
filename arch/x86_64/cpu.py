"""Numbers that only x86_64 has: arch_prctl codes, TSC mode, and the constants of an image's header.

Sources: arch/x86/include/uapi/asm/prctl.h (Linux 6.1 headers; from GET_UNTAG_MASK on, 6.18),
include/uapi/linux/prctl.h, arch/x86/include/asm/segment.h and processor.h.
"""

from enum import IntEnum, IntFlag
from typing import Final

from ckpt.arch.x86_64.debugregs import BREAKPOINTS
from ckpt.arch.x86_64.regs import REGS_SIZE
from ckpt.arch.x86_64.tls import GDT_TLS_ENTRIES, LDT_ENTRIES
from ckpt.arch.x86_64.xstate import read_host_layout

ARCH_NAME: Final = "x86_64"
PAGE_SIZE: Final = 4096

AUDIT_ARCH_X86_64: Final = 0xC000_003E
AUDIT_ARCH_I386: Final = 0x4000_0003
"""``arch`` of PTRACE_GET_SYSCALL_INFO when the thread entered by int 0x80 (TS_COMPAT)."""


class ArchPrctl(IntEnum):
    """First argument of arch_prctl(2)."""

    SET_GS = 0x1001
    SET_FS = 0x1002
    GET_FS = 0x1003
    GET_GS = 0x1004
    GET_CPUID = 0x1011
    SET_CPUID = 0x1012
    GET_XCOMP_SUPP = 0x1021
    GET_XCOMP_PERM = 0x1022
    REQ_XCOMP_PERM = 0x1023
    GET_XCOMP_GUEST_PERM = 0x1024
    REQ_XCOMP_GUEST_PERM = 0x1025
    MAP_VDSO_X32 = 0x2001
    MAP_VDSO_32 = 0x2002
    MAP_VDSO_64 = 0x2003
    GET_UNTAG_MASK = 0x4001
    ENABLE_TAGGED_ADDR = 0x4002
    GET_MAX_TAG_BITS = 0x4003
    FORCE_TAGGED_SVA = 0x4004
    SHSTK_ENABLE = 0x5001
    SHSTK_DISABLE = 0x5002
    SHSTK_LOCK = 0x5003
    SHSTK_UNLOCK = 0x5004
    SHSTK_STATUS = 0x5005


class ShadowStack(IntFlag):
    """Features of the SHSTK_* codes."""

    SHSTK = 1 << 0
    WRSS = 1 << 1


class TscMode(IntEnum):
    """PR_SET_TSC: whether rdtsc works or raises SIGSEGV."""

    ENABLE = 1
    SIGSEGV = 2


PR_GET_TSC: Final = 25
PR_SET_TSC: Final = 26


def read_machine_constants() -> dict[str, int]:
    """Read what must agree, or be converted, between image and machine; for the image's header."""
    layout = read_host_layout()
    return {
        "page_size": PAGE_SIZE,
        "regs_size": REGS_SIZE,
        "xstate_size": layout.size_bytes,
        "xstate_features": layout.features,
        "debug_breakpoints": BREAKPOINTS,
        "gdt_tls_first": GDT_TLS_ENTRIES.start,
        "gdt_tls_entries": len(GDT_TLS_ENTRIES),
        "ldt_entries": LDT_ENTRIES,
    }

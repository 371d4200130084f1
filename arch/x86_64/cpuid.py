"""Ask this CPU: CPUID, XCR0 and the MXCSR mask.

The kernel does not tell where XSAVE components lie, and /dev/cpu needs a module, so a few
instructions of ``cpuid.S`` run in our own process, from a memfd that is mapped read and execute
(never writable and executable at once).
"""

import ctypes
import functools
import os
from typing import Final, NamedTuple

from ckpt.errors import HostError

CPUID_CODE: Final = bytes.fromhex(
    "534989d089f889f10fa241890041895804418948084189500c5bc331c90f01d048c1e2204809d0c30fae07c3"
)
_CPUID: Final = 0x00
_XGETBV: Final = 0x1B
_FXSAVE: Final = 0x28

_PROT_READ_EXEC: Final = 5
_MAP_PRIVATE: Final = 2
_FXSAVE_SIZE: Final = 512
_MXCSR_MASK_OFFSET: Final = 28
# Intel SDM vol. 1, 11.6.6: what a mask of 0 means.
_MXCSR_MASK_DEFAULT: Final = 0xFFBF
_OSXSAVE: Final = 1 << 27


class CpuidResult(NamedTuple):
    """The four registers that CPUID sets."""

    eax: int
    ebx: int
    ecx: int
    edx: int


def read_cpuid(leaf: int, subleaf: int = 0) -> CpuidResult:
    """Execute CPUID on the CPU that we happen to run on."""
    out = (ctypes.c_uint32 * 4)()
    _function(_CPUID, None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(leaf, subleaf, out)
    return CpuidResult(*out)


def has_xsave() -> bool:
    """Tell whether the CPU has XSAVE and the kernel uses it."""
    return bool(read_cpuid(1).ecx & _OSXSAVE)


def read_xcr0() -> int:
    """Read the XSAVE features that the kernel has enabled; call only if ``has_xsave()``."""
    return int(_function(_XGETBV, ctypes.c_uint64)())


def read_mxcsr_mask() -> int:
    """Read which bits of MXCSR may be set."""
    room = ctypes.create_string_buffer(_FXSAVE_SIZE + 16)
    address = (ctypes.addressof(room) + 15) & ~15
    _function(_FXSAVE, None, ctypes.c_void_p)(address)
    mask = ctypes.c_uint32.from_address(address + _MXCSR_MASK_OFFSET).value
    return mask or _MXCSR_MASK_DEFAULT


def _function(offset: int, result: type | None, *arguments: type) -> "ctypes._FuncPointer":
    return ctypes.CFUNCTYPE(result, *arguments)(_map_code() + offset)


@functools.cache
def _map_code() -> int:
    """Map the code once; it stays as long as we do."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    fd = os.memfd_create("cpuid", os.MFD_CLOEXEC)
    try:
        os.write(fd, CPUID_CODE)
        address = libc.mmap(None, len(CPUID_CODE), _PROT_READ_EXEC, _MAP_PRIVATE, fd, 0)
    finally:
        os.close(fd)
    if address is None or address == ctypes.c_void_p(-1).value:
        hint = "a security policy forbids execmem; run outside of it"
        raise HostError("no executable memory for CPUID", errno=ctypes.get_errno(), hint=hint)
    return int(address)

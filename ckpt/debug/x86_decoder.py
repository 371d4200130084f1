"""capstone's library without capstone's Python package, whose import takes as long as all of us.

The package defines the operands of every architecture that it knows; for the text of x86
instructions four functions of its library are enough. Its version decides the layout of results:
with another one than we know, the package itself is used.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES: Final = ("libcapstone.so", "libcapstone.so.5")
_MAJOR: Final = 5
_ARCH_X86: Final = 3
_MODES: Final = {32: 1 << 2, 64: 1 << 3}
"""enum cs_arch and cs_mode, capstone/capstone.h (5.0)."""
_RUN: Final = 256
"""Instructions decoded by one call."""


class CsInsn(ctypes.Structure):
    """struct cs_insn, capstone/capstone.h (5.0); 248 bytes."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("address", ctypes.c_uint64),
        ("size", ctypes.c_uint16),
        ("bytes", ctypes.c_ubyte * 24),
        ("mnemonic", ctypes.c_char * 32),
        ("op_str", ctypes.c_char * 160),
        ("detail", ctypes.c_void_p),
    )


class Decoder:
    """The part of `capstone.Cs` that text for people needs; lives as long as the process."""

    def __init__(self, lib: ctypes.CDLL, bits: int) -> None:
        self._lib = lib
        self._handle = ctypes.c_size_t()
        error = int(lib.cs_open(_ARCH_X86, _MODES[bits], ctypes.byref(self._handle)))
        if error:
            raise RuntimeError(f"capstone: cs_open: error {error}")

    def disasm_lite(self, code: bytes, offset: int) -> Iterator[tuple[int, int, str, str]]:
        """Yield address, size, mnemonic and operands, up to the first byte that begins none."""
        at = 0
        while at < len(code):
            found = ctypes.POINTER(CsInsn)()
            part = code[at:]
            count = int(
                self._lib.cs_disasm(
                    self._handle, part, len(part), offset + at, _RUN, ctypes.byref(found)
                )
            )
            if not count:
                return
            try:
                for index in range(count):
                    one = found[index]
                    at += one.size
                    yield one.address, one.size, one.mnemonic.decode(), one.op_str.decode()
            finally:
                self._lib.cs_free(found, count)


@functools.cache
def open_decoder(bits: int) -> Any:
    """Return a decoder of 32- or 64-bit code: ours, or `capstone.Cs` where ours cannot be had."""
    lib = _open_library()
    if lib is not None:
        return Decoder(lib, bits)
    import capstone

    mode = capstone.CS_MODE_32 if bits == 32 else capstone.CS_MODE_64
    return capstone.Cs(capstone.CS_ARCH_X86, mode)


def _open_library() -> ctypes.CDLL | None:
    """Return the library that the capstone package has beside it, if it is one that we know."""
    spec = importlib.machinery.PathFinder.find_spec("capstone", sys.path)
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        for name in _NAMES:
            try:
                lib = ctypes.CDLL(f"{folder}/lib/{name}")
            except OSError:
                continue
            if int(lib.cs_version(None, None)) >> 8 == _MAJOR:
                return _declare(lib)
    return None


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    lib.cs_open.argtypes = (ctypes.c_int, ctypes.c_int, pointer)
    lib.cs_open.restype = ctypes.c_int
    lib.cs_disasm.argtypes = (size, ctypes.c_char_p, size, ctypes.c_uint64, size, pointer)
    lib.cs_disasm.restype = size
    lib.cs_free.argtypes = (pointer, size)
    lib.cs_free.restype = None
    return lib

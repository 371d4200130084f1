"""The frame that the kernel pushes before it calls a signal handler, and the code it returns to.

x86_64 programs name that code themselves (SA_RESTORER); it makes the call rt_sigreturn and nothing
else. struct rt_sigframe: `arch/x86/include/asm/sigframe.h`, 6.18.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ckpt.debug.unwind_rules import RETURN

if TYPE_CHECKING:
    from ckpt.debug.space import Space

_SIGRETURN: Final = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
"""mov $15, %rax; syscall: what SA_RESTORER of glibc, musl and Go points to."""
_SIGRETURN_CALL_AT: Final = 7
_MCONTEXT_AT: Final = 40
_MCONTEXT: Final = struct.Struct("<17Q")
_MCONTEXT_ORDER: Final = (8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, RETURN)
"""uc_mcontext of struct ucontext, as register numbers: struct sigcontext_64 of
`arch/x86/include/uapi/asm/sigcontext.h`, 6.18: r8 to r15, di, si, bp, bx, dx, ax, cx, sp, ip."""


def is_trampoline(space: Space, pc: int) -> bool:
    """Tell whether `pc` is at the trampoline's first instruction, or at its call."""
    starts = (pc, pc - _SIGRETURN_CALL_AT)
    return any(start > 0 and _reads_sigreturn(space, start) for start in starts)


def _reads_sigreturn(space: Space, start: int) -> bool:
    return space.read(start, len(_SIGRETURN)) == _SIGRETURN


def read_signal_frame(space: Space, stack: int) -> dict[int, int] | None:
    """Return the interrupted registers by DWARF number; None when they cannot be read.

    `stack` is rsp in the trampoline: the handler's return has popped the frame's first word, so it
    points to struct ucontext.
    """
    stored = space.read(stack + _MCONTEXT_AT, _MCONTEXT.size)
    if len(stored) != _MCONTEXT.size:
        return None
    return dict(zip(_MCONTEXT_ORDER, _MCONTEXT.unpack(stored), strict=True))

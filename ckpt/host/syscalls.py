"""System calls of our own process that the standard library lacks.

Numbers and flags: `arch/x86/entry/syscalls/syscall_64.tbl` and the uapi headers of kernel 6.18.
libc convention only (-1 and errno); the convention of calls played in a target (raw -errno in
rax) belongs to `ckpt.tape`.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

libc = ctypes.CDLL(None, use_errno=True)

SYS_PIDFD_OPEN: Final = 434
SYS_PIDFD_GETFD: Final = 438
SYS_KCMP: Final = 312
SYS_CLONE3: Final = 435
SYS_EXECVEAT: Final = 322
SYS_PROCESS_VM_READV: Final = 310
SYS_PRLIMIT64: Final = 302

AT_EMPTY_PATH: Final = 0x1000
"""`include/uapi/linux/fcntl.h`"""

KCMP_FILE: Final = 0
KCMP_VM: Final = 1
KCMP_FILES: Final = 2
KCMP_FS: Final = 3
KCMP_SIGHAND: Final = 4
"""`include/uapi/linux/kcmp.h`"""

_syscall = libc.syscall
_syscall.restype = ctypes.c_long


def syscall(nr: int, *args: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make system call `nr`; ints are passed as 64-bit values.

    Raises:
        OSError: with the kernel's errno.
    """
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = int(_syscall(ctypes.c_long(nr), *words))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def pidfd_getfd(pidfd: int, target_fd: int) -> int:
    """Return our own close-on-exec descriptor for the same open file as the target's."""
    return syscall(SYS_PIDFD_GETFD, pidfd, target_fd, 0)


def kcmp_same(pid1: int, pid2: int, kind: int, idx1: int = 0, idx2: int = 0) -> bool:
    """Tell whether two tasks share the object of `kind` (KCMP_*)."""
    return syscall(SYS_KCMP, pid1, pid2, kind, idx1, idx2) == 0

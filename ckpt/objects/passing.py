"""Descriptors on their way from the restorer into a task: SCM_RIGHTS, batch by batch.

The task reads its end of a socket pair at `Builder.socket_fd`; received descriptors take the lowest
free numbers (`get_unused_fd_flags`, fs/file.c), which is why every number is known beforehand.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ckpt.objects.steps import Blob, Call, Scratch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ckpt.objects.base import Restorer

BATCH: Final = 253
"""SCM_MAX_FD, `include/net/scm.h`."""

SYS_RECVMSG: Final = 47
SYS_CLOSE: Final = 3

_CMSG_HEADER_BYTES: Final = 16
_MSGHDR: Final = struct.Struct("<QI4xQQQQi4x")
"""struct user_msghdr, 56 bytes, `include/linux/socket.h`."""


class SendFds:
    """Send the restorer's descriptors of these keys to the root task, as one message."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)

    def perform(self, restorer: Restorer) -> None:
        """Send, then close our copies: 10,000 descriptors must not pile up with us."""
        restorer.send_fds([restorer.fds[key] for key in self.keys])
        for key in self.keys:
            restorer.close_fd(key)

    def describe(self) -> str:
        """Return one line for `--dry-run`."""
        shown = ", ".join(self.keys[:4]) + (", ..." if len(self.keys) > 4 else "")
        return f"send {len(self.keys)} descriptors: {shown}"


def receive_call(socket_fd: int, count: int) -> Call:
    """Return the recvmsg that takes one message of `count` descriptors (they are not cloexec)."""
    control_bytes = (_CMSG_HEADER_BYTES + 4 * count + 7) & ~7
    payload, control = Scratch(8), Scratch(control_bytes)
    iovec = Blob(struct.pack("<QQ", 0, 1), ((0, payload),))
    header = Blob(_MSGHDR.pack(0, 0, 0, 1, 0, control_bytes, 0), ((16, iovec), (32, control)))
    return Call(SYS_RECVMSG, (socket_fd, header, 0), 1)


def close_call(fd: int) -> Call:
    """Return the close of `fd`."""
    return Call(SYS_CLOSE, (fd,))


def lowest_free(taken: set[int]) -> Iterator[int]:
    """Yield the numbers that the kernel would hand out, lowest first, skipping `taken`."""
    number = 0
    while True:
        if number not in taken:
            yield number
        number += 1


def batches(items: Iterable[str]) -> Iterator[list[str]]:
    """Split keys into messages of at most `BATCH`."""
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

"""How received descriptors get to their numbers: a pure function of the table and what is taken.

Files are sent in the order of their lowest descriptor, batch by batch. The kernel gives received
files the lowest free numbers, so the one sent for descriptor `final` arrives at a number that is
not above it (everything below `final` that the table uses is placed, or arrives in the same batch
before it). Moving the batch's files from the highest down therefore never lands on one that still
waits; a file's further descriptors are made when all of the batch stand.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.objects.passing import BATCH, close_call, lowest_free, receive_call
from ckpt.objects.steps import Call

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SYS_DUP3: Final = 292
SYS_FCNTL: Final = 72
F_SETFD: Final = 2
FD_CLOEXEC: Final = 1
"""`arch/x86/entry/syscalls/syscall_64.tbl`, `include/uapi/linux/fcntl.h`, 6.18."""


class Target(NamedTuple):
    """One file and the descriptors, ascending, that shall lead to it: (number, cloexec)."""

    ref: int
    descriptors: tuple[tuple[int, bool], ...]


class Batch(NamedTuple):
    """One message: the files in it, and the calls that receive and place them."""

    refs: tuple[int, ...]
    calls: tuple[Call, ...]


def place_all(targets: Sequence[Target], socket_fd: int, size: int = BATCH) -> Iterator[Batch]:
    """Yield the batches that fill a table that holds only `socket_fd`."""
    ordered = sorted(targets, key=lambda target: target.descriptors[0])
    taken = {socket_fd}
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        received = list(islice(lowest_free(taken), len(batch)))
        calls = [receive_call(socket_fd, len(batch)), *_place(batch, received)]
        taken.update(fd for target in batch for fd, _ in target.descriptors)
        yield Batch(tuple(target.ref for target in batch), tuple(calls))


def _place(batch: Sequence[Target], received: Sequence[int]) -> Iterator[Call]:
    for target, number in zip(reversed(batch), reversed(received), strict=True):
        final, cloexec = target.descriptors[0]
        if number != final:
            yield dup_call(number, final, cloexec)
            yield close_call(number)
        elif cloexec:
            yield Call(SYS_FCNTL, (final, F_SETFD, FD_CLOEXEC))
    for target in batch:
        first = target.descriptors[0][0]
        for further, cloexec in target.descriptors[1:]:
            yield dup_call(first, further, cloexec)


def dup_call(source: int, target: int, cloexec: bool) -> Call:
    """Return the dup3 that makes `target` lead where `source` does."""
    return Call(SYS_DUP3, (source, target, os.O_CLOEXEC if cloexec else 0), target)

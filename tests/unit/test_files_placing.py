"""Placing of received descriptors, played against a model of the kernel's table."""

from __future__ import annotations

import os
import struct

from hypothesis import given
from hypothesis import strategies as st

from ckpt.objects.file_kinds.placing import (
    F_SETFD,
    FD_CLOEXEC,
    SYS_DUP3,
    SYS_FCNTL,
    Batch,
    Target,
    place_all,
)
from ckpt.objects.passing import SYS_CLOSE, SYS_RECVMSG
from ckpt.objects.steps import Blob, Call


class TableModel:
    """What dup3, close, fcntl and recvmsg do to a descriptor table."""

    def __init__(self, socket_fd: int) -> None:
        self.socket_fd = socket_fd
        self.entries: dict[int, tuple[int, bool]] = {socket_fd: (0, False)}

    def play(self, batch: Batch) -> None:
        waiting = list(batch.refs)
        for call in batch.calls:
            assert self._make(call, waiting) == call.value

    def _make(self, call: Call, waiting: list[int]) -> int:
        if call.nr == SYS_RECVMSG:
            assert 0 <= self._room(call) - len(waiting) <= 1  # rounded up to 8 bytes
            for ref in waiting:
                number = next(n for n in range(1 << 20) if n not in self.entries)
                self.entries[number] = (ref, False)
            return 1
        args = [arg for arg in call.args if isinstance(arg, int)]
        if call.nr == SYS_DUP3:
            source, target, flags = args
            assert source != target
            assert target not in self.entries, "an occupied number would be lost"
            self.entries[target] = (self.entries[source][0], bool(flags & os.O_CLOEXEC))
            return target
        if call.nr == SYS_FCNTL:
            assert args[1:] == [F_SETFD, FD_CLOEXEC]
            self.entries[args[0]] = (self.entries[args[0]][0], True)
            return 0
        assert call.nr == SYS_CLOSE
        del self.entries[args[0]]
        return 0

    @staticmethod
    def _room(call: Call) -> int:
        header = call.args[1]
        assert isinstance(header, Blob)
        (control_bytes,) = struct.unpack_from("<Q", header.content, 40)
        return int(control_bytes - 16) // 4


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[Target], int]:
    numbers = draw(st.sets(st.integers(0, 40), max_size=30))
    spread = draw(st.sampled_from([1, 7, 300]))
    owners = draw(st.lists(st.integers(1, 12), min_size=len(numbers), max_size=len(numbers)))
    cloexec = draw(st.lists(st.booleans(), min_size=len(numbers), max_size=len(numbers)))
    found: dict[int, list[tuple[int, bool]]] = {}
    for number, owner, flag in zip(sorted(numbers), owners, cloexec, strict=True):
        found.setdefault(owner, []).append((number * spread, flag))
    socket_fd = next(n for n in range(3, 1 << 20) if n not in {x * spread for x in numbers})
    return [Target(ref, tuple(fds)) for ref, fds in found.items()], socket_fd


@given(table=tables(), size=st.sampled_from([1, 2, 3, 253]))
def test_every_descriptor_ends_at_its_number(table: tuple[list[Target], int], size: int) -> None:
    targets, socket_fd = table
    model = TableModel(socket_fd)
    for batch in place_all(targets, socket_fd, size):
        model.play(batch)
    wanted = {fd: (target.ref, flag) for target in targets for fd, flag in target.descriptors}
    assert model.entries == {socket_fd: (0, False), **wanted}


def test_a_dense_table_needs_no_moving() -> None:
    targets = [Target(ref, ((fd, False),)) for ref, fd in enumerate((0, 1, 2, 4), 1)]
    (batch,) = place_all(targets, 3)
    assert [call.nr for call in batch.calls] == [SYS_RECVMSG]


def test_a_message_has_at_most_253_files() -> None:
    targets = [Target(fd + 1, ((fd + 10, True),)) for fd in range(600)]
    assert [len(batch.refs) for batch in place_all(targets, 3)] == [253, 253, 94]

"""Tapes: what is laid out where, how long ones are cut, and how calls read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckpt.arch.x86_64 import machine_code
from ckpt.errors import RestoreError
from ckpt.objects.steps import Blob, Call, Entry, Expect, Scratch, c_string
from ckpt.tape import assemble, describe_call

ADDRESS = 0x10_0000
GETPID, READ, OPENAT = 39, 0, 257


def parse(content: bytes, count: int) -> list[machine_code.Entry]:
    size = count * machine_code.ENTRY_SIZE
    return [entry for entry, _ in machine_code.parse_entries(content[:size])]


def at(content: bytes, address: int, size: int) -> bytes:
    return content[address - ADDRESS : address - ADDRESS + size]


def test_numbers_are_stored_as_they_are() -> None:
    [chunk] = assemble([Call(READ, (3, 0x7F00, 10), 10)], ADDRESS)
    [entry] = parse(chunk.content, 1)
    assert (entry.nr, entry.args) == (READ, (3, 0x7F00, 10, 0, 0, 0))
    assert entry.expect == machine_code.expect_exact(10)
    assert entry.how is machine_code.EntryHow.SYSCALL


def test_blobs_lie_behind_the_entries_and_point_at_each_other() -> None:
    name = c_string("/etc/motd")
    vector = Blob(struct.pack("<QQ", 0, 9), ((0, name),))
    [chunk] = assemble([Call(OPENAT, (-100, name)), Call(20, (1, vector, 1))], ADDRESS)
    first, second = parse(chunk.content, 2)
    assert at(chunk.content, first.args[1], 10) == b"/etc/motd\0"
    pointer, length = struct.unpack("<QQ", at(chunk.content, second.args[1], 16))
    assert (pointer, length) == (first.args[1], 9)
    assert pointer >= ADDRESS + 2 * machine_code.ENTRY_SIZE


def test_scratch_is_zeroed_aligned_and_nobody_elses() -> None:
    room = Scratch(100)
    [chunk] = assemble([Call(READ, (0, room, 100)), Call(READ, (0, c_string("x"), 1))], ADDRESS)
    first, second = parse(chunk.content, 2)
    assert first.args[1] % 64 == 0
    assert not any(at(chunk.content, first.args[1], 100))
    assert not first.args[1] <= second.args[1] < first.args[1] + 100


@pytest.mark.parametrize(
    ("expect", "good", "bad"),
    [
        (Expect.EXACT, [7], [6, 8, -7]),
        (Expect.NOT_NEGATIVE, [0, 1, 1 << 47], [-1, -4095]),
        (Expect.ANY, [0, -1, -4095, 5], []),
    ],
)
def test_what_is_expected(expect: Expect, good: list[int], bad: list[int]) -> None:
    [chunk] = assemble([Call(GETPID, (), 7, expect)], ADDRESS)
    [entry] = parse(chunk.content, 1)
    assert all(entry.expect.accepts(result) for result in good)
    assert not any(entry.expect.accepts(result) for result in bad)


def test_int80_is_kept() -> None:
    [chunk] = assemble([Call(20, entry=Entry.INT80)], ADDRESS)
    assert parse(chunk.content, 1)[0].how is machine_code.EntryHow.INT80


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=60), st.integers(4096, 20000))
def test_long_tapes_are_cut_and_lose_nothing(sizes: list[int], room: int) -> None:
    calls = [Call(READ, (i, Blob(bytes([i % 256]) * size), size)) for i, size in enumerate(sizes)]
    chunks = list(assemble(calls, ADDRESS, room))
    assert [call for chunk in chunks for call in chunk.calls] == calls
    for chunk in chunks:
        assert len(chunk.content) <= room
        for call, entry in zip(chunk.calls, parse(chunk.content, len(chunk.calls)), strict=True):
            number, blob, size = call.args
            assert isinstance(blob, Blob)
            assert (entry.args[0], entry.args[2]) == (number, size)
            assert at(chunk.content, entry.args[1], len(blob.content)) == blob.content


def test_a_call_that_fits_no_tape_is_an_error() -> None:
    with pytest.raises(RestoreError, match=r"system call 0 needs \d+ bytes of tape, has 4096"):
        list(assemble([Call(READ, (0, Blob(bytes(5000)), 5000))], ADDRESS, 4096))


HIGH = 0x7F00_0000_0000


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (Call(GETPID, (), 412), "getpid() = 412"),
        (
            Call(READ, (3, Scratch(16), 16), 0, Expect.NOT_NEGATIVE),
            "read(3, &[16 bytes], 16) = >= 0",
        ),
        (Call(OPENAT, (-100, c_string("/a")), 5), "openat(-100, &b'/a\\x00') = 5"),
        (
            Call(9, (0x7F0000000000, 4096), 0x7F0000000000),
            "mmap(0x7f0000000000, 0x1000) = 0x7f0000000000",
        ),
        (Call(20, (), 1, Expect.ANY, Entry.INT80), "getpid() = ?"),
    ],
)
def test_calls_read_like_strace(call: Call, text: str) -> None:
    assert describe_call(call) == text

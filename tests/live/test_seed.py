"""The seed and the tape player, run under ptrace on this kernel."""

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ckpt.arch.x86_64 import machine_code as mc
from ckpt.arch.x86_64 import regs as r
from ckpt.arch.x86_64.machine_code import Entry, EntryHow
from ckpt.host import ptrace
from tests.live.seed_process import (
    ENTRIES_ADDRESS,
    SEED_ADDRESS,
    SYS_MMAP,
    TAPE_ADDRESS,
    TAPE_ROOM,
    Seed,
    running_seed,
    start_seed,
    wait,
)

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SYS_MUNMAP: Final = 11
SYS_GETPID: Final = 39
SYS_FORK: Final = 57
SYS_CLOSE: Final = 3
SYS_GETUID: Final = 102
I386_GETPID: Final = 20
I386_MMAP2: Final = 192
SYS_OPENAT: Final = 257
AT_FDCWD: Final = -100
I386_CLOSE: Final = 6


@pytest.fixture
def seed() -> Iterator[Seed]:
    with running_seed() as process:
        yield process


def test_address_space_is_one_page_and_the_kernels_own(seed: Seed) -> None:
    maps = Path(f"/proc/{seed.pid}/maps").read_text().splitlines()
    first = maps[0].split()
    assert first[0] == f"{SEED_ADDRESS:x}-{SEED_ADDRESS + 0x1000:x}"
    assert first[1] == "r-xp"
    names = {line.split()[-1] for line in maps[1:]}
    assert names <= {"[stack]", "[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"}
    stack = next(line for line in maps if line.endswith("[stack]"))
    assert stack.split()[1] == "rw-p"


def test_traps_again_whenever_it_is_let_go(seed: Seed) -> None:
    for _ in range(3):
        assert seed.regs().rip == SEED_ADDRESS + mc.SEED_START + 1
        seed.run_to_trap()


def test_single_calls_by_both_instructions(seed: Seed) -> None:
    assert seed.call(SYS_GETPID) == seed.pid
    seed.set_regs(rip=SEED_ADDRESS + mc.SEED_INT80, rax=I386_GETPID)
    seed.run_to_trap()
    assert seed.regs().rax == seed.pid


def test_500_calls_in_one_stop(seed: Seed) -> None:
    seed.map_player()
    seed.load([Entry(SYS_GETPID, expect=mc.expect_exact(seed.pid))] * 500)
    seed.run_to_trap()
    assert seed.stopped_at() == (mc.TAPE_END, 500)
    assert seed.results(500) == [seed.pid] * 500


def test_empty_tape_ends_at_once(seed: Seed) -> None:
    seed.map_player()
    seed.load([])
    seed.run_to_trap()
    assert seed.stopped_at() == (mc.TAPE_END, 0)


@pytest.mark.parametrize("bad", [0, 1, 37, 99])
def test_mismatch_stops_at_its_entry(seed: Seed, bad: int) -> None:
    seed.map_player()
    entries = [Entry(SYS_GETPID, expect=mc.EXPECT_NOT_ERROR)] * 100
    entries[bad] = Entry(SYS_CLOSE, (-1,), expect=mc.EXPECT_NOT_ERROR)
    seed.load(entries)
    seed.run_to_trap()
    assert seed.stopped_at() == (mc.TAPE_MISMATCH, bad)
    assert seed.results(100)[: bad + 1] == [seed.pid] * bad + [-errno.EBADF]
    assert not any(seed.results(100)[bad + 1 :])


def test_expected_errors_pass(seed: Seed) -> None:
    seed.map_player()
    entries = [
        Entry(SYS_CLOSE, (-1,), expect=mc.expect_exact(-errno.EBADF)),
        Entry(SYS_CLOSE, (-1,), expect=mc.EXPECT_ANY),
        Entry(SYS_GETUID),
        Entry(SYS_GETPID, expect=mc.expect_between(1, 1 << 22)),
    ]
    seed.load(entries)
    seed.run_to_trap()
    assert seed.stopped_at() == (mc.TAPE_END, 4)
    assert seed.results(4) == [-errno.EBADF, -errno.EBADF, 0, seed.pid]


def test_int80_entries_reach_the_32_bit_table(seed: Seed) -> None:
    seed.map_player()
    entries = [
        Entry(I386_GETPID, expect=mc.expect_exact(seed.pid), how=EntryHow.INT80),
        Entry(I386_CLOSE, (-1,), mc.expect_exact(-errno.EBADF), EntryHow.INT80),
        Entry(SYS_GETPID, expect=mc.expect_exact(seed.pid)),
    ]
    seed.load(entries)
    seed.run_to_trap()
    assert seed.stopped_at() == (mc.TAPE_END, 3)


@pytest.mark.parametrize(
    ("how", "nr", "offset", "target"),
    [
        (EntryHow.SYSCALL, SYS_MMAP, 0x1000, TAPE_ADDRESS + TAPE_ROOM),
        (EntryHow.INT80, I386_MMAP2, 1, 0x2000_0000),
    ],
)
def test_all_six_arguments_arrive(
    seed: Seed, how: EntryHow, nr: int, offset: int, target: int
) -> None:
    """A shared mapping of a file's second page needs every argument of mmap to be right."""
    seed.map_player()
    memfd = os.memfd_create("six", 0)
    try:
        os.ftruncate(memfd, 0x2000)
        os.pwrite(memfd, b"second page", 0x1000)
        where = TAPE_ADDRESS + TAPE_ROOM - 0x1000
        os.pwrite(seed.memory, f"/proc/{os.getpid()}/fd/{memfd}\0".encode(), where)
        fd = 3
        entries = [
            Entry(SYS_OPENAT, (AT_FDCWD, where, os.O_RDWR), mc.expect_exact(fd)),
            Entry(nr, (target, 0x1000, 3, 0x11, fd, offset), mc.expect_exact(target), how),
        ]
        seed.load(entries)
        seed.run_to_trap()
        assert seed.stopped_at() == (mc.TAPE_END, 2), seed.results(2)
        assert os.pread(seed.memory, 11, target) == b"second page"
    finally:
        os.close(memfd)


def test_children_are_caught_before_they_run(seed: Seed) -> None:
    """A fork entry's child is stopped with rax 0, and follows the registers the host gives it."""
    seed.map_player()
    seed.load(
        [Entry(SYS_FORK, expect=mc.EXPECT_NOT_ERROR), Entry(SYS_GETPID, expect=mc.EXPECT_ANY)]
    )
    ptrace.resume(seed.pid)
    assert wait(seed.pid).event == ptrace.Event.FORK
    child = ptrace.event_message(seed.pid)
    seed.children.append(child)
    assert wait(child).event == ptrace.Event.STOP
    assert seed.regs(child).rax == 0
    assert seed.regs(child).r12 == ENTRIES_ADDRESS
    seed.run_to_trap()
    assert seed.results(2) == [child, seed.pid]

    seed.set_regs(child, rip=TAPE_ADDRESS, r12=ENTRIES_ADDRESS + mc.ENTRY_SIZE)
    ptrace.resume(child)
    assert wait(child).signo == signal.SIGTRAP
    with open(f"/proc/{child}/mem", "rb", buffering=0) as memory:
        memory.seek(ENTRIES_ADDRESS + mc.ENTRY_SIZE)
        assert mc.parse_results(memory.read(mc.ENTRY_SIZE)) == [child]


def test_player_unmaps_itself_and_ends_in_a_trap(seed: Seed) -> None:
    """The last munmap: entry and exit stops of one call, then the EVENT_STOP that may detach."""
    seed.map_player()
    no_call = r.unsigned(-1)
    seed.set_regs(
        rip=TAPE_ADDRESS + mc.TAPE_SYSCALL,
        rax=SYS_MUNMAP,
        orig_rax=no_call,
        rdi=TAPE_ADDRESS,
        rsi=TAPE_ROOM,
    )
    for _ in range(2):
        ptrace.resume_to_syscall(seed.pid)
        assert wait(seed.pid).is_syscall
    assert seed.regs().rax == 0
    ptrace.interrupt(seed.pid)
    ptrace.resume(seed.pid)
    assert wait(seed.pid).event == ptrace.Event.STOP
    assert f"{TAPE_ADDRESS:x}-" not in Path(f"/proc/{seed.pid}/maps").read_text()
    seed.set_regs(rip=SEED_ADDRESS + mc.SEED_START, orig_rax=no_call)
    seed.run_to_trap()


def test_exitkill_takes_the_seed_along() -> None:
    """A tracer that dies leaves no seed behind."""
    reader, writer = os.pipe()
    libc = ctypes.CDLL(None, use_errno=True)
    # PR_SET_CHILD_SUBREAPER, for good: other tests want to reap their orphans as well.
    assert libc.prctl(36, 1, 0, 0, 0) == 0
    tracer = os.fork()
    if tracer == 0:
        try:
            os.write(writer, struct.pack("<i", start_seed()))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        (orphan,) = struct.unpack("<i", os.read(reader, 4))
        os.waitpid(tracer, 0)
        assert os.waitstatus_to_exitcode(os.waitpid(orphan, 0)[1]) == -signal.SIGKILL
    finally:
        os.close(reader)
        os.close(writer)

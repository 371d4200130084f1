"""The seed and the tape player, run under ptrace on this kernel."""

import ctypes
import errno
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from ckpt.arch.x86_64 import machine_code as mc
from ckpt.arch.x86_64 import regs as r
from ckpt.arch.x86_64.machine_code import Entry, EntryHow
from ckpt.host import ptrace

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

SYS_MMAP: Final = 9
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
SEED_ADDRESS: Final = 0x5550_0000_0000
TAPE_ADDRESS: Final = 0x5560_0000_0000
TAPE_ROOM: Final = 0x10_0000
ENTRIES_ADDRESS: Final = TAPE_ADDRESS + 0x1000
OPTIONS: Final = (
    ptrace.Option.EXITKILL
    | ptrace.Option.TRACEEXEC
    | ptrace.Option.TRACEFORK
    | ptrace.Option.TRACESYSGOOD
)


class Seed:
    """A seed process of ours, stopped at its trap, with a player mapped on demand."""

    def __init__(self) -> None:
        self.pid = start_seed()
        self.children: list[int] = []
        self.memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)

    def regs(self, tid: int = 0) -> r.X86Regs:
        return r.parse_regs(ptrace.get_regset(tid or self.pid, r.NT_PRSTATUS, r.REGS_SIZE))

    def set_regs(self, tid: int = 0, **changed: int) -> None:
        fields = {name: getattr(self.regs(tid), name) for name in r.REG_NAMES} | changed
        data = r.encode_regs(r.X86Regs(**fields))
        ptrace.set_regset(tid or self.pid, r.NT_PRSTATUS, data)

    def run_to_trap(self) -> None:
        ptrace.resume(self.pid)
        stop = wait(self.pid)
        assert (stop.event, stop.signo) == (0, signal.SIGTRAP), stop

    def call(self, nr: int, *args: int) -> int:
        """Make one system call at the seed's own syscall instruction."""
        names = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
        self.set_regs(
            rip=SEED_ADDRESS + mc.SEED_SYSCALL,
            rax=nr,
            orig_rax=r.unsigned(-1),
            **dict(zip(names, args, strict=False)),
        )
        self.run_to_trap()
        return r.signed(self.regs().rax)

    def map_player(self) -> None:
        flags = 0x32 | 0x100000  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
        no_fd = r.unsigned(-1)
        assert self.call(SYS_MMAP, TAPE_ADDRESS, 0x1000, 5, flags, no_fd, 0) == TAPE_ADDRESS
        size = TAPE_ROOM - 0x1000
        assert self.call(SYS_MMAP, ENTRIES_ADDRESS, size, 3, flags, no_fd, 0) == ENTRIES_ADDRESS
        os.pwrite(self.memory, mc.TAPE_CODE, TAPE_ADDRESS)

    def load(self, entries: list[Entry]) -> None:
        packed = mc.pack_entries(entries)
        os.pwrite(self.memory, packed, ENTRIES_ADDRESS)
        self.set_regs(
            rip=TAPE_ADDRESS + mc.TAPE_START,
            orig_rax=r.unsigned(-1),
            r12=ENTRIES_ADDRESS,
            r13=ENTRIES_ADDRESS + len(packed),
        )

    def results(self, count: int) -> list[int]:
        return mc.parse_results(os.pread(self.memory, count * mc.ENTRY_SIZE, ENTRIES_ADDRESS))

    def stopped_at(self) -> tuple[int, int]:
        """Return the label's offset and the index of the current entry."""
        regs = self.regs()
        index, rest = divmod(regs.r12 - ENTRIES_ADDRESS, mc.ENTRY_SIZE)
        assert rest == 0
        return regs.rip - 1 - TAPE_ADDRESS, index

    def close(self) -> None:
        os.close(self.memory)
        for pid in [*self.children, self.pid]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, ptrace.WALL)


def start_seed() -> int:
    """Fork a child that executes the seed from a memfd; return it at its first int3."""
    fd = os.memfd_create("seed", os.MFD_CLOEXEC)
    os.write(fd, mc.build_seed(SEED_ADDRESS))
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.read(ready, 1)
        try:
            os.execve(fd, ["seed"], {})
        finally:
            os._exit(127)
    ptrace.seize(pid, OPTIONS)
    for end in (ready, go, fd):
        os.close(end)
    assert wait(pid).event == ptrace.Event.EXEC
    ptrace.resume(pid)
    assert wait(pid).signo == signal.SIGTRAP
    return pid


def wait(tid: int, limit_s: float = 10.0) -> ptrace.Stop:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        stop = ptrace.wait_stop(tid, block=False)
        if stop is not None:
            assert stop.exit_status is None, f"seed ended with status {stop.exit_status:#x}"
            return stop
    raise TimeoutError(f"tid {tid} did not stop within {limit_s} s")


@pytest.fixture
def seed() -> Iterator[Seed]:
    process = Seed()
    try:
        yield process
    finally:
        process.close()


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
    assert libc.prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: the orphan comes to us
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
        libc.prctl(36, 0, 0, 0, 0)
        os.close(reader)
        os.close(writer)

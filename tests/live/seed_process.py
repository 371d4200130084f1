"""A seed under ptrace for tests: started, given a tape player, called, and ended."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ckpt.arch.x86_64 import machine_code as mc
from ckpt.arch.x86_64 import regs as r
from ckpt.arch.x86_64.machine_code import Entry
from ckpt.host import ptrace

SYS_MMAP: Final = 9
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


@contextmanager
def running_seed() -> Iterator[Seed]:
    """Give a fresh seed and end it afterwards."""
    process = Seed()
    try:
        yield process
    finally:
        process.close()

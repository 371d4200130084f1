"""Tapes: a task's steps flattened to system calls, and the player that runs them in one stop.

A tape is inert and printable. Playing one writes its entries and data into the task's tape region,
points the machine code of `ckpt.arch.x86_64` at them, lets the task run until it traps, and reads
the results back: one ptrace stop for many calls.
"""

from __future__ import annotations

import os
import signal
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.arch.x86_64 import machine_code
from ckpt.arch.x86_64.regs import REG_NAMES, REGS_SIZE
from ckpt.errors import RestoreError
from ckpt.host import ptrace
from ckpt.objects.steps import Blob, Call, Entry, Expect, Scratch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    OnCall = Callable[[int, Call, int | None], object]
    """(tid, call, its result: raw rax, None where it does not come back), behind each call."""

CODE_BYTES: Final = 4096
DATA_BYTES: Final = 512 * 1024
REGION_BYTES: Final = CODE_BYTES + DATA_BYTES
_ALIGN: Final = 64

# Indices in struct user_regs_struct (arch/x86_64/regs.py).
_R12, _R13, _RAX, _ORIG_RAX, _RIP = 3, 2, 10, 15, 16
_REGS: Final = struct.Struct("<27Q")
_NO_CALL: Final = (1 << 64) - 1

_EXPECT: Final = {
    Expect.NOT_NEGATIVE: machine_code.EXPECT_NOT_ERROR,
    Expect.ANY: machine_code.EXPECT_ANY,
}


class Assembled(NamedTuple):
    """One chunk of a tape that fits its region."""

    calls: Sequence[Call]
    content: bytes
    """What stands at the start of the data area: entries first, blobs behind them."""


class _Assembler:
    """Lays out entries and blobs for a data area at a known address."""

    def __init__(self, address: int, entry_count: int, lag_ns: int) -> None:
        self.address = address
        self.lag_ns = lag_ns
        self.used = entry_count * machine_code.ENTRY_SIZE
        self.places: dict[int, int] = {}
        self.parts: list[tuple[int, bytes]] = []

    def place(self, item: Blob | Scratch) -> int:
        """Return the address of a blob or scratch area, laying it out when it is new."""
        known = self.places.get(id(item))
        if known is not None:
            return known
        offset = (self.used + _ALIGN - 1) & -_ALIGN
        self.places[id(item)] = self.address + offset
        if isinstance(item, Scratch):
            self.used = offset + item.size_bytes
            return self.address + offset
        self.used = offset + len(item.content)
        content = bytearray(item.content_at(self.lag_ns))
        for at, pointee in item.pointers:
            struct.pack_into("<Q", content, at, self.place(pointee))
        self.parts.append((offset, bytes(content)))
        return self.address + offset


def _size(item: Blob | Scratch) -> int:
    if isinstance(item, Scratch):
        return item.size_bytes + _ALIGN
    return len(item.content) + _ALIGN + sum(_size(pointee) for _, pointee in item.pointers)


def _split(calls: Sequence[Call], room: int) -> Iterator[Sequence[Call]]:
    """Cut calls into runs whose entries and blobs surely fit into `room` bytes."""
    start = used = 0
    for index, call in enumerate(calls):
        size = machine_code.ENTRY_SIZE + sum(
            _size(arg) for arg in call.args if not isinstance(arg, int)
        )
        if size > room:
            raise RestoreError(f"system call {call.nr} needs {size} bytes of tape, has {room}")
        if used + size > room:
            yield calls[start:index]
            start, used = index, 0
        used += size
    if start < len(calls):
        yield calls[start:]


def assemble(
    calls: Sequence[Call], address: int, room: int = DATA_BYTES, lag_ns: int = 0
) -> Iterator[Assembled]:
    """Yield the chunks of a tape for a data area of `room` bytes at `address`.

    `lag_ns` is what the target's clock lags behind the moment of the freeze.
    """
    for run in _split(calls, room):
        layout = _Assembler(address, len(run), lag_ns)
        entries = [
            machine_code.Entry(
                call.nr,
                tuple(arg if isinstance(arg, int) else layout.place(arg) for arg in call.args),
                _EXPECT.get(call.expect) or machine_code.expect_exact(call.value),
                machine_code.EntryHow.INT80
                if call.entry is Entry.INT80
                else machine_code.EntryHow.SYSCALL,
            )
            for call in run
        ]
        content = bytearray(layout.used)
        packed = machine_code.pack_entries(entries)
        content[: len(packed)] = packed
        for offset, part in layout.parts:
            content[offset : offset + len(part)] = part
        yield Assembled(run, bytes(content))


def describe_call(call: Call) -> str:
    """Return a call as strace would print it."""
    from ckpt.arch.x86_64.syscalls import syscall_name

    name = syscall_name(call.nr, i386=call.entry is Entry.INT80)
    result = {Expect.EXACT: _number(call.value), Expect.NOT_NEGATIVE: ">= 0", Expect.ANY: "?"}
    return f"{name}({', '.join(_describe_arg(arg) for arg in call.args)}) = {result[call.expect]}"


def _number(value: int) -> str:
    return str(value) if abs(value) < 4096 else hex(value)


def _describe_arg(arg: int | Blob | Scratch) -> str:
    if isinstance(arg, int):
        return _number(arg)
    return repr(arg) if isinstance(arg, Blob) else f"&[{arg.size_bytes} bytes]"


class Player:
    """Plays tapes on the threads of one address space, one thread at a time.

    `region` is where the code page and, behind it, the data area are mapped in the target.
    `born` collects the tids of the threads that tapes create; each has stopped by then.
    """

    def __init__(
        self, tgid: int, region: int, template: bytes, on_call: OnCall | None = None
    ) -> None:
        self.tgid = tgid
        self.region = region
        self.data = region + CODE_BYTES
        self._template = list(_REGS.unpack(template))
        self._memory = os.open(f"/proc/{tgid}/mem", os.O_RDWR | os.O_CLOEXEC)
        self.born: set[int] = set()
        self._on_call = on_call

    def close(self) -> None:
        """Close our handle on the target's memory."""
        os.close(self._memory)

    def write_code(self) -> None:
        """Put the player's machine code into the region's first page."""
        os.pwrite(self._memory, machine_code.TAPE_CODE, self.region)

    def read_memory(self, address: int, size: int) -> bytes:
        """Read the target's memory."""
        return os.pread(self._memory, size, address)

    def write_memory(self, address: int, content: bytes) -> None:
        """Write the target's memory."""
        os.pwrite(self._memory, content, address)

    def regs_for(self, rip: int, **changes: int) -> bytes:
        """Return template registers with rip and others changed, not inside any system call."""
        regs = list(self._template)
        regs[_RIP] = rip
        regs[_ORIG_RAX] = _NO_CALL
        for name, value in changes.items():
            regs[_INDEX[name]] = value & _NO_CALL
        return _REGS.pack(*regs)

    def play(self, tid: int, calls: Sequence[Call], why: str, lag_ns: int = 0) -> list[int]:
        """Play `calls` on stopped thread `tid`; return their results.

        `lag_ns` is what the target's clock lags behind the moment of the freeze.

        Raises:
            RestoreError: at the first result that is not the expected one, with the call.
        """
        results: list[int] = []
        for chunk in assemble(calls, self.data, lag_ns=lag_ns):
            results += self._play_chunk(tid, chunk, why)
        return results

    def _play_chunk(self, tid: int, chunk: Assembled, why: str) -> list[int]:
        os.pwrite(self._memory, chunk.content, self.data)
        end = self.data + len(chunk.calls) * machine_code.ENTRY_SIZE
        regs = self.regs_for(self.region + machine_code.TAPE_START, r12=self.data, r13=end)
        ptrace.set_regset(tid, ptrace.NT_PRSTATUS, regs)
        ptrace.resume(tid)
        self._wait_trap(tid, why)
        after = _REGS.unpack(ptrace.get_regset(tid, ptrace.NT_PRSTATUS, REGS_SIZE))
        entries = os.pread(self._memory, end - self.data, self.data)
        results = machine_code.parse_results(entries)
        if after[_RIP] == self.region + machine_code.TAPE_END + 1:
            self._tell(tid, chunk.calls, results)
            return results
        index = (after[_R12] - self.data) // machine_code.ENTRY_SIZE
        if after[_RIP] != self.region + machine_code.TAPE_MISMATCH + 1 or not (
            0 <= index < len(chunk.calls)
        ):
            raise RestoreError(f"{why}: the tape stopped at {after[_RIP]:#x}", where=f"tid {tid}")
        self._tell(tid, chunk.calls[: index + 1], results)
        raise _mismatch(tid, why, chunk.calls[index], results[index])

    def _tell(self, tid: int, calls: Sequence[Call], results: Sequence[int]) -> None:
        if self._on_call is not None:
            for call, result in zip(calls, results, strict=False):
                self._on_call(tid, call, result)

    def _wait_trap(self, tid: int, why: str) -> None:
        """Wait until `tid` traps; threads that it creates meanwhile are waited for as well."""
        while True:
            stop = ptrace.wait_stop(tid)
            if stop is None or stop.exit_status is not None:
                raise RestoreError(f"{why}: the task ended in the middle", where=f"tid {tid}")
            if stop.event == ptrace.Event.CLONE:
                child = ptrace.event_message(tid)
                born = ptrace.wait_stop(child)
                if born is None or not born.is_trap:
                    raise RestoreError(f"{why}: new thread {child} did not stop")
                self.born.add(child)
                ptrace.resume(tid)
            elif stop.is_trap:
                ptrace.resume(tid)
            elif stop.event == 0 and stop.signo == signal.SIGTRAP:
                return
            else:
                name = signal.Signals(stop.signo & 0x7F).name
                raise RestoreError(f"{why}: the task got {name}", where=f"tid {tid}")


def _mismatch(tid: int, why: str, call: Call, result: int) -> RestoreError:
    if -4095 <= result < 0:
        return RestoreError(
            f"{why}: {describe_call(call)} failed", where=f"tid {tid}", errno=-result
        )
    return RestoreError(f"{why}: {describe_call(call)} returned {result:#x}", where=f"tid {tid}")


_INDEX: Final = {name: index for index, name in enumerate(REG_NAMES)}

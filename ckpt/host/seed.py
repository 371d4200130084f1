"""Start the seed: a one-page program under ptrace, born with the pid that the target had.

Owns the steps between "nothing" and "a stopped task that can play tapes": clone3 with set_tid,
SEIZE with EXITKILL, exec of the seed from a memfd, mapping of the tape region, and leaving nothing
else in its memory but vdso and vvar. If we die at any point, EXITKILL (or, before it is set, the
end of the gate pipe) takes the task with us.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ckpt.arch.x86_64 import machine_code
from ckpt.arch.x86_64.regs import REG_NAMES, REGS_SIZE, signed
from ckpt.errors import RestoreError
from ckpt.host import ptrace
from ckpt.host.syscalls import AT_EMPTY_PATH, SYS_CLONE3, SYS_EXECVEAT, libc

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS: Final = (
    ptrace.Option.TRACESYSGOOD
    | ptrace.Option.TRACEFORK
    | ptrace.Option.TRACECLONE
    | ptrace.Option.TRACEEXEC
    | ptrace.Option.EXITKILL
    | ptrace.Option.SUSPEND_SECCOMP
)

_SYS_MMAP: Final = 9
_EX_RETRY: Final = 255
"""No errno; the process between happens to have the pid that is wanted."""
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4
_MAP_PRIVATE_ANON_FIXED_NOREPLACE: Final = 0x2 | 0x20 | 0x100000

_CLONE_ARGS: Final = struct.Struct("<11Q")
"""struct clone_args, 88 bytes (CLONE_ARGS_SIZE_VER2), `include/uapi/linux/sched.h`."""

_holding_gil = ctypes.PyDLL(None, use_errno=True).syscall
_holding_gil.restype = ctypes.c_long
"""syscall(2) without letting go of the interpreter's lock: our child must own it."""

_REGS: Final = struct.Struct("<27Q")
_INDEX: Final = {name: index for index, name in enumerate(REG_NAMES)}


class Mapping(NamedTuple):
    """One line of /proc/PID/maps, as far as the seed's own memory is concerned."""

    start: int
    end: int
    name: str


def read_mappings(pid: int) -> list[Mapping]:
    """Return the areas of a stopped task."""
    with open(f"/proc/{pid}/maps") as lines:
        return [_parse_mapping(line) for line in lines]


def _parse_mapping(line: str) -> Mapping:
    fields = line.split(None, 5)
    start, end = fields[0].split("-")
    return Mapping(int(start, 16), int(end, 16), fields[5].strip() if len(fields) > 5 else "")


def spawn_seed(
    pid: int, address: int, keep_fd: int, *, orphan: bool = False, apart: bool = False
) -> None:
    """Create process `pid` from us and exec the seed in it; it is stopped at its first trap.

    `address` is where the seed's page goes; `keep_fd` is inherited across the exec. An `orphan` is
    a child of init from the beginning, so that our end sends it no parent-death signal. One that
    is `apart` as well is in a process group other than ours, which it does not lead.

    Raises:
        RestoreError: the pid is taken (EEXIST) or may not be chosen.
    """
    image_fd = os.memfd_create("ckpt-seed", os.MFD_CLOEXEC)
    gate_read, gate_write = os.pipe()
    try:
        os.write(image_fd, machine_code.build_seed(address))
        fds = image_fd, gate_read, gate_write, keep_fd
        child = _clone_orphan(pid, *fds, apart=apart) if orphan else _clone_with_pid(pid, *fds)
        try:
            ptrace.seize(child, int(OPTIONS))
            os.write(gate_write, b"g")
            _reach_first_trap(child)
        except BaseException:
            end_seed(child)
            raise
    finally:
        for fd in (image_fd, gate_read, gate_write):
            os.close(fd)


def end_seed(pid: int) -> None:
    """Kill what `spawn_seed` created, and reap it if it is ours to reap."""
    try:
        os.kill(pid, signal.SIGKILL)
        while (stop := ptrace.wait_stop(pid)) is not None and stop.exit_status is None:
            pass
    except (ProcessLookupError, ChildProcessError):
        pass  # It had ended already, or is an orphan that init reaps.


def _clone_with_pid(pid: int, image_fd: int, gate_read: int, gate_write: int, keep: int) -> int:
    tids = (ctypes.c_int32 * 1)(pid)
    args = ctypes.create_string_buffer(
        _CLONE_ARGS.pack(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(tids), 1, 0)
    )
    # Everything that the child needs is made before: it may only call, not allocate.
    byte = ctypes.create_string_buffer(1)
    argv = (ctypes.c_char_p * 2)(b"ckpt-seed", None)
    envp = (ctypes.c_char_p * 1)(None)
    os.set_inheritable(keep, True)
    result = int(_holding_gil(SYS_CLONE3, ctypes.byref(args), ctypes.c_size_t(_CLONE_ARGS.size)))
    if result == 0:
        libc.close(gate_write)
        if libc.read(gate_read, byte, ctypes.c_size_t(1)) == 1:
            libc.syscall(SYS_EXECVEAT, image_fd, b"", argv, envp, AT_EMPTY_PATH)
        libc._exit(127)
    os.set_inheritable(keep, False)
    if result < 0:
        number = ctypes.get_errno()
        raise RestoreError("cannot be created", where=f"pid {pid}", errno=number)
    return result


def _clone_orphan(
    pid: int, image_fd: int, gate_read: int, gate_write: int, keep: int, *, apart: bool
) -> int:
    """Clone from a process between that ends at once, and that has not itself taken the pid."""
    status = _EX_RETRY
    while status == _EX_RETRY:
        between = os.fork()
        if between == 0:
            status = 1
            try:
                if os.getpid() == pid:
                    os._exit(_EX_RETRY)
                if apart:
                    os.setpgid(0, 0)
                _clone_with_pid(pid, image_fd, gate_read, gate_write, keep)
                status = 0
            except RestoreError as error:
                status = error.errno or status
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(between, 0)[1])
    if status:
        raise RestoreError("cannot be created", where=f"pid {pid}", errno=abs(status))
    return pid


def _reach_first_trap(pid: int) -> None:
    """Run the child from its gate through exec to the seed's first int3."""
    while True:
        stop = ptrace.wait_stop(pid)
        if stop is None or stop.exit_status is not None:
            raise RestoreError("the seed could not be executed", where=f"pid {pid}")
        if stop.event == 0 and stop.signo == signal.SIGTRAP:
            return
        deliver = stop.signo if stop.event == 0 and not stop.is_syscall else 0
        ptrace.resume(pid, 0 if deliver in (signal.SIGSTOP, signal.SIGTSTP) else deliver)


def call_in_seed(pid: int, address: int, nr: int, args: Sequence[int]) -> int:
    """Make one system call at the seed's own `syscall` instruction; return raw rax."""
    regs = list(_REGS.unpack(ptrace.get_regset(pid, ptrace.NT_PRSTATUS, REGS_SIZE)))
    regs[_INDEX["rip"]] = address + machine_code.SEED_SYSCALL
    regs[_INDEX["rax"]] = nr
    for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), args, strict=False):
        regs[_INDEX[name]] = value & 0xFFFF_FFFF_FFFF_FFFF
    ptrace.set_regset(pid, ptrace.NT_PRSTATUS, _REGS.pack(*regs))
    ptrace.resume(pid)
    stop = ptrace.wait_stop(pid)
    if stop is None or stop.event or stop.signo != signal.SIGTRAP:
        raise RestoreError("the seed did not come back from a call", where=f"pid {pid}")
    after = _REGS.unpack(ptrace.get_regset(pid, ptrace.NT_PRSTATUS, REGS_SIZE))
    return signed(after[_INDEX["rax"]])


def map_region(pid: int, seed: int, region: int, code_bytes: int, data_bytes: int) -> None:
    """Map the tape region: a page that executes and, behind it, an area for entries and data."""
    for start, size, prot in (
        (region, code_bytes, _PROT_READ | _PROT_EXEC),
        (region + code_bytes, data_bytes, _PROT_READ | _PROT_WRITE),
    ):
        flags = _MAP_PRIVATE_ANON_FIXED_NOREPLACE
        result = call_in_seed(pid, seed, _SYS_MMAP, (start, size, prot, flags, -1, 0))
        if result != start:
            raise RestoreError(
                f"no room for the tape at {start:#x}", where=f"pid {pid}", errno=-result
            )

"""Bring a traced thread from any stop into the PTRACE_EVENT_STOP trap, and calls half-way.

Final registers, restart codes among them, hold only if they are loaded in that trap and the thread
is let go by DETACH (kernel/signal.c: get_signal runs after the trap and sees them).
"""

from __future__ import annotations

from ckpt.errors import RestoreError
from ckpt.host import ptrace


def reach_trap(tid: int) -> None:
    """Move a stopped thread into the trap without running any of its instructions.

    Raises:
        RestoreError: the thread ended, or stopped for something else.
    """
    ptrace.interrupt(tid)
    ptrace.resume(tid)
    _expect_trap(tid)


def _expect_trap(tid: int) -> None:
    stop = ptrace.wait_stop(tid)
    if stop is None or not stop.is_trap:
        raise RestoreError(f"stopped for another reason: {stop}", where=f"tid {tid}")


def _reach_syscall_stop(tid: int) -> None:
    ptrace.resume_to_syscall(tid)
    stop = ptrace.wait_stop(tid)
    while stop is not None and stop.is_trap:
        ptrace.resume_to_syscall(tid)
        stop = ptrace.wait_stop(tid)
    if stop is None or not stop.is_syscall:
        raise RestoreError(f"did not reach a system call: {stop}", where=f"tid {tid}")


def enter_call(tid: int, regs: bytes) -> None:
    """Load `regs`, which stand at a call instruction, and run to the syscall-entry stop."""
    ptrace.set_regset(tid, ptrace.NT_PRSTATUS, regs)
    _reach_syscall_stop(tid)


def finish_call(tid: int) -> None:
    """From the syscall-entry stop, run the call's body to the syscall-exit stop."""
    _reach_syscall_stop(tid)


def finish_call_interrupted(tid: int) -> None:
    """From the syscall-entry stop, run the body with a stop pending, into the trap.

    PTRACE_CONT, never PTRACE_SYSCALL: a syscall-exit stop would clear the pending trap.
    """
    ptrace.interrupt(tid)
    ptrace.resume(tid)
    _expect_trap(tid)

"""One thread of a live process, from what the kernel said of it and what its memory holds."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ckpt.arch.x86_64.regs import REG_NAMES, USER32_CS
from ckpt.debug.call_args import CallDecoder
from ckpt.debug.call_flags import name_value
from ckpt.debug.inspect_restart import describe_restart, signed_32, time_left_ns
from ckpt.debug.inspect_types import (
    AltStack,
    Blocked,
    Deadline,
    Frame,
    Instruction,
    RseqState,
    ThreadReport,
    Who,
)
from ckpt.debug.text import escape
from ckpt.host.kernel_view import EXIT_DEAD, EXIT_ZOMBIE, PF_KTHREAD
from ckpt.objects.siginfo import name_of, signals_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckpt.debug.call_args import Call
    from ckpt.debug.futexes import Futexes
    from ckpt.debug.inspect_types import FutexWord, Restart, RobustList
    from ckpt.debug.live_space import LiveSpace
    from ckpt.host.kernel_view import ThreadView
    from ckpt.host.surroundings import ThreadPlace

MAX_FRAMES: Final = 32
_BEFORE: Final = 3
_AFTER: Final = 3
# include/linux/sched.h, 6.18: task->__state
_STATE_REPORT: Final = (
    (0x8, "t", "traced: stopped by its tracer"),
    (0x4, "T", "stopped by a signal"),
    (0x40, "P", "parked"),
    (0x80, "X", "dead"),
)
_UNINTERRUPTIBLE: Final = 0x2
_INTERRUPTIBLE: Final = 0x1
_WAKEKILL: Final = 0x100
_NOLOAD: Final = 0x400
_FROZEN: Final = 0x8000
_RESTART_CODES: Final = {
    -512: "ERESTARTSYS: it is made again",
    -513: "ERESTARTNOINTR: it is made again",
    -514: "ERESTARTNOHAND: it is made again unless a handler runs",
    -516: "ERESTART_RESTARTBLOCK: restart_syscall goes on with it",
}
_PT_REGS: Final = 21
"""How many of user_regs_struct are in pt_regs: the first."""
_SS_DISABLE: Final = 2
_SS_AUTODISARM: Final = 1 << 31
_RSEQ: Final = struct.Struct("<IIQ")
"""cpu_id_start, cpu_id, rseq_cs: the first members of struct rseq (include/uapi/linux/rseq.h)."""
_TIMER_SOURCES: Final = {
    "hrtimer": "the timer on its kernel stack",
    "process_timeout": "the timer on its kernel stack, to one tick",
    "estimate": "an estimate",
}
_SECCOMP: Final = {0: "off", 1: "strict", 2: "filter"}


class Around(NamedTuple):
    """What the reports of a process's threads have in common."""

    space: LiveSpace | None
    """None: no memory, or none that may be read."""
    futexes: Futexes | None
    name_fd: Callable[[int], str]
    name_task: Callable[[int], Who]
    leader: ThreadView | None
    instructions: dict[int, tuple[Instruction, ...]]
    """Already disassembled, by rip."""
    observed_ns: int
    """CLOCK_MONOTONIC; times left are as of then."""


def describe_state(state: int, exit_state: int, *, on_cpu: bool | None) -> tuple[str, str]:
    """Return the letter of /proc/PID/stat for a task's state, and words."""
    if exit_state & EXIT_ZOMBIE:
        return "Z", "zombie: ended, its parent has not asked how"
    if exit_state & EXIT_DEAD:
        return "X", "dead"
    for bit, letter, text in _STATE_REPORT:
        if state & bit:
            return letter, text
    if state & _UNINTERRUPTIBLE:
        if state & _NOLOAD:
            return "I", "idle"
        if state & _FROZEN:
            return "D", "frozen"
        return "D", f"uninterruptible wait{', but can be killed' if state & _WAKEKILL else ''}"
    if state & _INTERRUPTIBLE:
        return "S", "sleeping, interruptible"
    if state == 0:
        words = {True: "running", False: "ready to run", None: "running or ready to run"}
        return "R", words[on_cpu]
    return "D" if state & _FROZEN else "?", "frozen" if state & _FROZEN else f"state {state:#x}"


class ThreadInspector:
    """Makes the report of one thread; `place` is None when nobody may know where it stands."""

    def __init__(self, view: ThreadView, place: ThreadPlace | None, around: Around) -> None:
        self._view = view
        self._place = place
        self._around = around
        self._gaps: list[str] = []
        self._is_kernel = bool((view.flags or 0) & PF_KTHREAD)
        alive = not (place.exit_state if place is not None else view.exit_state)
        self._has_user_side = alive and not self._is_kernel
        self._is_on_cpu = place is not None and place.on_cpu
        space = around.space
        self._decoder = None if space is None else CallDecoder(space, around.name_fd)

    def report(self, *, with_stack: bool = True) -> ThreadReport:
        """Report the thread; `with_stack`: walk its user stack as well, which takes longest."""
        view, place = self._view, self._place
        state = view.state if place is None else place.state
        exit_state = view.exit_state if place is None else place.exit_state
        letter, text = describe_state(
            state, exit_state, on_cpu=None if place is None else place.on_cpu
        )
        call = self._decode_call()
        regs = self._registers()
        user_stack = self._user_stack() if with_stack else ()
        if not with_stack:
            self._gaps.append(
                "user stack: there are too many threads to walk all; ask for this one"
            )
        rip = regs.get("rip")
        return ThreadReport(
            tid=view.tid,
            tgid=view.tgid,
            comm=escape(view.comm),
            state=letter,
            state_text=text,
            cpu=None if place is None else place.cpu,
            blocked=self._blocked(letter),
            deadline=self._deadline(),
            call=call,
            call_note=self._call_note(call),
            futex=self._futex(),
            kernel_stack=None if place is None else place.kernel_stack,
            rip=rip,
            rsp=regs.get("rsp"),
            registers=regs or None,
            user_stack=user_stack,
            instructions=self._disassemble(rip),
            build_id=self._build_id(rip),
            restart=self._restart(),
            robust_lists=self._robust_lists(),
            altstack=self._altstack(regs.get("rsp")),
            pending=names_of(view.pending),
            masked=names_of(view.blocked),
            saved_mask=names_of(view.saved_sigmask or 0) if view.restore_sigmask else None,
            tracer=self._around.name_task(view.tracer_tid) if view.tracer_tid else None,
            rseq=self._rseq(),
            seccomp=self._seccomp(),
            no_new_privs=view.no_new_privs,
            differs=tuple(self._differences()),
            nvcsw=view.nvcsw,
            nivcsw=view.nivcsw,
            cpu_time_ns=view.runtime_ns,
            gaps=tuple(self._gaps),
        )

    def _registers(self) -> dict[str, int]:
        """Return the registers of the entry into the kernel; without BPF only rip and rsp."""
        place = self._place
        if place is None or not self._has_user_side or self._is_on_cpu or not place.regs.rip:
            return {}
        names = REG_NAMES[:_PT_REGS] if place.has_all_regs else ("rip", "rsp")
        return {name: getattr(place.regs, name) for name in names}

    def _decode_call(self) -> Call | None:
        place = self._place
        if place is None or not self._has_user_side or self._is_on_cpu:
            return None
        nr = signed_32(place.regs.orig_rax)
        if nr < 0:
            return None
        args = _arguments(place)
        decoder = self._decoder or CallDecoder(_NO_MEMORY, self._around.name_fd)
        return decoder.decode(nr, args, is_i386=place.is_i386_call)

    def _call_note(self, call: Call | None) -> str:
        if self._is_on_cpu:
            return "it runs at this moment: where, cannot be seen from outside"
        if call is None or self._place is None:
            return ""
        notes = ["made by 32-bit code or int 0x80"] if call.is_i386 else []
        code = signed_32(self._place.regs.rax)
        if code in _RESTART_CODES:
            notes.append(f"interrupted, {_RESTART_CODES[code]}")
        elif call.name == "restart_syscall":
            notes.append("goes on with what its restart block says")
        elif self._place.state == 0:
            notes.append("not waiting in it at this moment")
        return "; ".join(notes)

    def _blocked(self, letter: str) -> Blocked | None:
        place = self._place
        if place is None or place.off_cpu_ns is None or letter in "RZX":
            return None
        source = "when the scheduler last took it off its CPU"
        if not place.is_off_cpu_exact:
            source = "se.exec_start, late by what the host took meanwhile"
        return Blocked(place.off_cpu_ns, source)

    def _deadline(self) -> Deadline | None:
        timer = self._view.blocked_timer
        if timer is None:
            return None
        left_ns = time_left_ns(timer.clockid, timer.expires_ns, self._around.observed_ns)
        if left_ns is None:
            return None
        source = _TIMER_SOURCES.get(timer.kind, timer.kind)
        if timer.kind == "hrtimer" and (self._place is None or not self._place.has_all_regs):
            source = "the kernel's list of timers"
        return Deadline(name_value("clock", timer.clockid), left_ns, source)

    def _futex(self) -> FutexWord | None:
        futexes = self._around.futexes
        return None if futexes is None else futexes.describe_wait(self._view.tid)

    def _user_stack(self) -> tuple[Frame, ...]:
        """Return the frames of the user stack, the innermost first.

        A thread in the kernel has its user registers as they were; one that runs has none.
        """
        space, place = self._around.space, self._place
        if space is None or place is None or not self._registers():
            return ()
        from ckpt.debug.unwind import backtrace, name_frame

        frames = backtrace(space, place.regs, MAX_FRAMES)
        return tuple(Frame(frame.address, name_frame(space, frame)) for frame in frames)

    def _disassemble(self, rip: int | None) -> tuple[Instruction, ...]:
        space = self._around.space
        if rip is None or space is None:
            return ()
        known = self._around.instructions
        if rip not in known:
            from ckpt.debug.disasm import disasm

            bits = 32 if self._is_32bit() else 64
            known[rip] = tuple(
                Instruction(
                    line.address,
                    f"{line.text} <{line.target}>" if line.target else line.text,
                    line.address == rip,
                )
                for line in disasm(space, rip, _BEFORE, _AFTER, bits)
            )
        return known[rip]

    def _is_32bit(self) -> bool:
        return self._place is not None and self._place.regs.cs == USER32_CS

    def _build_id(self, rip: int | None) -> str:
        space = self._around.space
        return "" if rip is None or space is None else space.build_id(rip)

    def _pointer(self, address: int) -> str:
        return self._decoder.pointer(address) if self._decoder is not None else hex(address)

    def _restart(self) -> Restart | None:
        is_i386 = self._place is not None and self._place.is_i386_call
        observed_ns = self._around.observed_ns
        return describe_restart(self._view, self._pointer, observed_ns, is_i386=is_i386)

    def _robust_lists(self) -> tuple[RobustList, ...]:
        futexes, view = self._around.futexes, self._view
        if futexes is None or not self._has_user_side:
            return ()
        heads = ((view.robust_list, False), (view.compat_robust_list or 0, True))
        return tuple(
            futexes.walk_robust_list(head, is_compat=is_compat) for head, is_compat in heads if head
        )

    def _altstack(self, rsp: int | None) -> AltStack | None:
        view = self._view
        if view.sas_ss_sp is None or view.sas_ss_size is None:
            if self._has_user_side:
                self._gaps.append("alternate stack: only BPF shows it")
            return None
        flags = view.sas_ss_flags or 0
        if not view.sas_ss_size or flags & _SS_DISABLE:
            return None
        # on_sig_stack(), include/linux/sched/signal.h
        is_on = None if rsp is None else 0 < rsp - view.sas_ss_sp <= view.sas_ss_size
        name = "SS_AUTODISARM" if flags & _SS_AUTODISARM else ""
        return AltStack(view.sas_ss_sp, view.sas_ss_size, name, is_on)

    def _rseq(self) -> RseqState | None:
        found = self._view.rseq
        if found is None or not found.address:
            return None
        space = self._around.space
        content = b"" if space is None else space.read(found.address, _RSEQ.size)
        if len(content) < _RSEQ.size:
            return RseqState(found.address, found.length, found.signature, None, "")
        _, cpu, section = _RSEQ.unpack(content)
        place = self._pointer(section) if section else ""
        return RseqState(found.address, found.length, found.signature, cpu, place)

    def _seccomp(self) -> str:
        view = self._view
        name = _SECCOMP.get(view.seccomp_mode, f"mode {view.seccomp_mode}")
        return f"{name}, {view.seccomp_filter_count} filters" if view.seccomp_mode == 2 else name

    def _differences(self) -> list[str]:
        leader, view = self._around.leader, self._view
        if leader is None or leader.tid == view.tid or leader.exit_state or view.exit_state:
            return []
        names = {
            "files": "descriptors",
            "fs": "working directory",
            "sighand": "signal handlers",
            "cred": "credentials",
            "nsproxy": "namespaces",
        }
        return [
            text
            for field, text in names.items()
            if (own := getattr(view, field)) is not None and own != getattr(leader, field)
        ]


class _NoMemory:
    """Memory that may not be looked at."""

    def read(self, address: int, size: int) -> bytes:
        """Return nothing."""
        del address, size
        return b""

    def locate(self, address: int) -> str:
        """Know nothing."""
        del address
        return ""


_NO_MEMORY: Final[Any] = _NoMemory()


def decode_bare(nr: int, args: tuple[int, ...], *, is_i386: bool, name_fd: Any) -> Call:
    """Decode a call without looking into memory."""
    return CallDecoder(_NO_MEMORY, name_fd).decode(nr, args, is_i386=is_i386)


def names_of(mask: int) -> tuple[str, ...]:
    """Return the signals of a mask by name."""
    return tuple(map(name_of, signals_in(mask)))


def _arguments(place: ThreadPlace) -> tuple[int, ...]:
    regs = place.regs
    if place.is_i386_call:
        six = (regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp)
        return tuple(value & 0xFFFF_FFFF for value in six)
    return (regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9)

"""Threads of an image as objects: registers, the interrupted call, signals, the user stack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, overload

from ckpt.arch.x86_64.regs import X86Regs
from ckpt.debug.calls import describe_thread
from ckpt.debug.session_views import Number, View
from ckpt.debug.text import escape, escape_bytes
from ckpt.objects import siginfo

if TYPE_CHECKING:
    from ckpt.debug.calls import ThreadCall
    from ckpt.debug.session import Session
    from ckpt.debug.session_tasks import Task
    from ckpt.objects.base import Record
    from ckpt.objects.task import ThreadRecord

_SIGNO_BYTES: Final = 20
"""Of a siginfo: signo, errno, code and the first word of the union."""


class Thread:
    """One thread: its registers, the call it is in, its signals, and whatever else is its own.

        thread.regs.rip                 a number that prints with its symbol
        thread.call                     the interrupted call, how it goes on, the time left
        thread.restart_block            function, clock and time left; None when not armed
        thread.signals                  mask and pending signals
        thread.backtrace()              the frames of its user stack
        thread.altstack, .robust, .rseq, .creds, .sched, .xstate, ...

    Every record about the thread is an attribute under the name of its type (`dir(thread)`).
    """

    def __init__(self, session: Session, task: Task, record: ThreadRecord) -> None:
        self._session = session
        self.task = task
        self.tid = record.tid
        self.record = record
        self.comm = escape_bytes(record.comm)
        """Safe to print."""

    def __repr__(self) -> str:
        call = self.record.interrupted
        doing = f"in {escape(call.name)}" if call.name else "in no call"
        return f"<thread {self.tid} ({self.comm}): {doing}, rip {self.regs.rip!r}>"

    def __getattr__(self, name: str) -> Any:
        # Only when the record is there: a thread without one has no such attribute.
        for record in () if name.startswith("_") else self._own:
            if record.__struct_config__.tag == name:
                return View(record, self.task.memory.locate)
        raise AttributeError(f"thread {self.tid} has no {name!r}")

    def __dir__(self) -> list[str]:
        tags = {str(record.__struct_config__.tag) for record in self._own}
        return sorted({*super().__dir__(), *tags})

    @property
    def _own(self) -> Sequence[Record]:
        """Records about this thread alone, or about it and others that are alike."""
        return self._session.by_tid.get(self.tid, ())

    @property
    def records(self) -> list[View]:
        """Every record about this thread."""
        return [View(record, self.task.memory.locate) for record in self._own]

    @property
    def regs(self) -> View:
        """The general registers, by name; addresses print with their symbols."""
        return Registers(self.record.regs, self.task.memory.locate)

    @property
    def call(self) -> ThreadCall:
        """The call that the thread was in: name, strategy and reason, time left, instruction."""
        return describe_thread(self.record, self.task.memory.space)

    @property
    def interrupted(self) -> View:
        """The record's own words about the interrupted call."""
        return View(self.record.interrupted, self.task.memory.locate)

    @property
    def restart_block(self) -> View | None:
        """The restart_block that is armed (rax says -516): `fn`, `clockid`, `remaining_ns`, ...

        None: none is; what the kernel has there is stale then, and not in the image.
        """
        block = self.record.interrupted.rearm
        return None if block is None else View(block, self.task.memory.locate)

    @property
    def signals(self) -> Signals:
        """The signal mask and the signals pending for this thread."""
        return Signals(self._find("thread_signals"))

    def backtrace(self, limit: int = 64) -> list[StackFrame]:
        """Return the frames of the user stack, newest first: by `.eh_frame`, else frame pointers.

        A frame prints as its address with its function; `frame.how` says how it was found.
        """
        from ckpt.debug.unwind import backtrace, name_frame

        space = self.task.memory.space
        return [
            StackFrame(number, frame.address, name_frame(space, frame), frame.how)
            for number, frame in enumerate(backtrace(space, self.record.regs, limit))
        ]

    @property
    def creds(self) -> View | None:
        """The credentials: `creds.credentials.uids`, `.groups`, `.effective`, ..."""
        record = self._find("creds")
        return None if record is None else View(record, self.task.memory.locate)

    def _find(self, tag: str) -> Record | None:
        return next((one for one in self._own if one.__struct_config__.tag == tag), None)


class StackFrame(NamedTuple):
    """One frame of a user stack."""

    number: int
    """0: where the thread is; 1: its caller; ..."""
    address: int
    place: str
    """File, function and offset; safe to print."""
    how: str
    """How it was found: `registers`, `eh_frame`, `frame pointer`, ..."""

    def __repr__(self) -> str:
        return f"#{self.number} {self.address:#x} {self.place}"

    def __str__(self) -> str:
        return repr(self)


class Registers(View):
    """General registers of one thread."""

    record: X86Regs

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        place = self._locate(value)
        return Number(value, f"{int(value):#x} ({place})" if place else f"{int(value):#x}")

    def __repr__(self) -> str:
        return f"<rip {self.rip!r}, rsp {int(self.rsp):#x}, rax {signed(self.record.rax)}>"

    def __str__(self) -> str:
        return "\n".join(f"{name:8} {getattr(self, name)!r}" for name in X86Regs.__struct_fields__)


def signed(value: int) -> str:
    """Return a register as a result: -516, or hex."""
    return str(value - (1 << 64)) if value >= (1 << 64) - 4096 else f"{value:#x}"


class Signals:
    """Mask and pending signals, by name."""

    def __init__(self, record: Any) -> None:
        """Show a `ThreadSignals` or `ProcessSignals` record; None: none."""
        self.record = record
        self.mask: int = getattr(record, "mask", 0)
        """Bit n-1 is signal n."""
        self.pending = [
            siginfo.name_of(siginfo.signo_of(info))
            for info in getattr(record, "pending", ())
            if len(info) >= _SIGNO_BYTES
        ]
        """In the order they were queued."""

    @property
    def blocked(self) -> list[str]:
        """The names of the blocked signals."""
        return [siginfo.name_of(number) for number in siginfo.signals_in(self.mask)]

    def __repr__(self) -> str:
        pending = ", ".join(self.pending) or "none"
        return f"<blocked {siginfo.names_in(self.mask)}; pending {pending}>"


class Threads(Sequence[Thread]):
    """The threads of a task: `threads[0]`, or `threads[4243]` by tid.

    A small number is an index; `by_tid` takes every number for a tid.
    """

    def __init__(self, threads: list[Thread]) -> None:
        self._threads = threads

    def by_tid(self, tid: int) -> Thread:
        """Return the thread of this tid; KeyError."""
        for thread in self._threads:
            if thread.tid == tid:
                return thread
        raise KeyError(f"no thread {tid}; there are {[one.tid for one in self._threads[:32]]}")

    @overload
    def __getitem__(self, index: int) -> Thread: ...
    @overload
    def __getitem__(self, index: slice) -> list[Thread]: ...
    def __getitem__(self, index: int | slice) -> Thread | list[Thread]:
        if isinstance(index, slice) or index < len(self._threads):
            return self._threads[index]
        try:
            return self.by_tid(index)
        except KeyError as error:
            raise IndexError(error.args[0]) from error

    def __len__(self) -> int:
        return len(self._threads)

    def __iter__(self) -> Iterator[Thread]:
        return iter(self._threads)

    def __repr__(self) -> str:
        return repr(self._threads)

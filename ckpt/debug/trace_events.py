"""What `ckpt-bpf trace` sees, as typed events.

Times are CLOCK_MONOTONIC of the host in nanoseconds; tids and pids are those of our own pid
namespace, 0 outside of it. All text is safe to print. `to_json` gives one object an event, whose
member `event` is the name that `--events` uses.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class Sender(msgspec.Struct, frozen=True, gc=False):
    """Who sent a signal."""

    tid: int
    tgid: int
    comm: str


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True, tag_field="event"):
    """What every event has: when, and which task of which process."""

    NAME: ClassVar[str] = ""
    """As `--events` calls it."""

    time_ns: int
    tid: int
    tgid: int
    comm: str


class Fork(Event, frozen=True, gc=False, kw_only=True, tag="fork"):
    """A thread (same tgid) or a process was made."""

    NAME: ClassVar[str] = "fork"
    child_tid: int
    child_tgid: int


class Exec(Event, frozen=True, gc=False, kw_only=True, tag="exec"):
    """A program is executed; `old_tid` is the thread that asked for it, as it was called before.

    0: another than the main thread, of a number that only its own pid namespace knew.
    """

    NAME: ClassVar[str] = "exec"
    path: str
    old_tid: int


class Exit(Event, frozen=True, gc=False, kw_only=True, tag="exit"):
    """A thread ends, the last one of its process if `is_last`."""

    NAME: ClassVar[str] = "exit"
    status: int | None
    """Exit status; None when a signal ended it."""
    signal: str | None
    has_dumped_core: bool
    is_last: bool


class Armed(Event, frozen=True, gc=False, kw_only=True, tag="armed"):
    """A call was interrupted and left a restart_block: it returned -ERESTART_RESTARTBLOCK."""

    NAME: ClassVar[str] = "armed"
    call: str
    """As strace writes it; memory is not read."""
    nr: int
    function: str
    arguments: dict[str, str]
    left_ns: int | None
    """Until the deadline; None: there is none, or on a clock that only the task can read."""


class RestartEntered(Event, frozen=True, gc=False, kw_only=True, tag="restart"):
    """restart_syscall was entered, with this restart_block.

    Seen when the call sets its timer again; without a timer, only with its result.
    """

    NAME: ClassVar[str] = "restart"
    function: str
    arguments: dict[str, str]
    left_ns: int | None


class RestartResult(Event, frozen=True, gc=False, kw_only=True, tag="restart_result"):
    """What restart_syscall came to."""

    NAME: ClassVar[str] = "restart"
    result: int
    meaning: str
    """Name of the error, "interrupted once more", or empty for success."""


class Eintr(Event, frozen=True, gc=False, kw_only=True, tag="eintr"):
    """A call returns EINTR to the program."""

    NAME: ClassVar[str] = "eintr"
    call: str
    nr: int
    signal: str | None
    """Whose handler ended the call; None: the call itself returned EINTR."""


class Signal(Event, frozen=True, gc=False, kw_only=True, tag="signal"):
    """A signal is delivered: its handler starts, or its default action is taken."""

    NAME: ClassVar[str] = "signal"
    signal: str
    code: str
    """si_code by name."""
    source: str
    """Who or what sent it, as text; empty: sent before the trace began."""
    sender: Sender | None
    """The task that sent it; None: no task did, or not known."""
    to_process: bool
    """To the process as a whole, not to this thread; meant only when the sending was seen."""
    action: str
    """"default", "ignored", or the handler's address and symbol."""
    flags: str
    """SA_* of the handler."""
    waited_ns: int | None
    """Between sending and delivery; None: the sending was not seen."""
    is_fatal: bool
    """The whole process is ended by it."""


class Altstack(Event, frozen=True, gc=False, kw_only=True, tag="altstack"):
    """A handler starts on the alternate signal stack."""

    NAME: ClassVar[str] = "altstack"
    signal: str
    action: str
    stack: int
    stack_bytes: int
    was_on_it: bool
    """The thread was on that stack already: a handler within a handler."""


class Robust(Event, frozen=True, gc=False, kw_only=True, tag="robust"):
    """A thread ends and owns a robust futex: the kernel will mark it FUTEX_OWNER_DIED."""

    NAME: ClassVar[str] = "robust"
    futex: int
    place: str
    """The variable or mapping that it lies in; empty: not known."""
    word: int
    has_waiters: bool
    is_pi: bool
    is_pending: bool
    """Not on the list yet: it was just being taken or given back."""
    problem: str
    """Why the walk ended early (`futex` is then where); empty for a futex."""


class FutexWait(Event, frozen=True, gc=False, kw_only=True, tag="futex"):
    """A wait for a futex took longer than asked for."""

    NAME: ClassVar[str] = "futex"
    futex: int
    place: str
    operation: str
    began_ns: int
    lasted_ns: int
    result: int | None
    """What the call returned; None: it goes on."""
    meaning: str
    was_before: bool
    """It had begun before the trace; `began_ns` is when the trace began."""


AnyEvent = (
    Fork
    | Exec
    | Exit
    | Armed
    | RestartEntered
    | RestartResult
    | Eintr
    | Signal
    | Altstack
    | Robust
    | FutexWait
)


def to_json(event: Event) -> str:
    """Return one event as one line of JSON, everything beyond ASCII escaped."""
    import json

    return json.dumps(msgspec.to_builtins(event))

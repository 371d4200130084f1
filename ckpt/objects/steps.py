"""What a plan is made of: tokens, calls, actions, steps. Plain data, made by object modules.

A step is a fact about order ("needs these tokens, gives those") and either calls that a task makes
itself (`Call`, played from a tape) or one `Action` of the restorer (on the host, or by ptrace on a
stopped thread). Nothing here does anything; `ckpt.plan` orders steps, `ckpt.tape` plays calls.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from ckpt.objects.base import Restorer


_TIMEVAL: Final = struct.Struct("<qq")
"""struct __kernel_old_timeval, 16 bytes."""


class Token(NamedTuple):
    """Something that a step provides or waits for: a milestone of one object.

    A step that needs a token runs after **every** step that provides it.
    """

    name: str
    ref: int = 0
    """tid, tgid or objref, whatever the token's constructor says."""

    def __str__(self) -> str:
        return f"{self.name}({self.ref})" if self.ref else self.name


def born(tid: int) -> Token:
    """Thread `tid` exists, stopped, and can play tapes. Only the leader exists at the start."""
    return Token("born", tid)


def threads_exist(tgid: int) -> Token:
    """Every thread of the process exists; from here on it is multi-threaded."""
    return Token("threads", tgid)


def memory_mapped(tgid: int) -> Token:
    """Every area of the process is mapped, at its place, with its final protection."""
    return Token("mapped", tgid)


def memory_filled(tgid: int) -> Token:
    """Every page has its content; nothing writes the target's memory afterwards."""
    return Token("filled", tgid)


def mm_fields_set(tgid: int) -> Token:
    """brk, argv, environment, auxv and exe are the recorded ones."""
    return Token("mm", tgid)


def fds_placed(files_ref: int) -> Token:
    """Every descriptor of the table stands at its number, with its flags."""
    return Token("fds", files_ref)


def fs_set(tgid: int) -> Token:
    """Root and working folder are the recorded ones (paths mean what the target meant)."""
    return Token("fs", tgid)


def session_set(tgid: int) -> Token:
    """Session, process group and controlling terminal are settled."""
    return Token("session", tgid)


def timens_entered(tgid: int) -> Token:
    """The process lives in its final time namespace (before threads exist)."""
    return Token("timens", tgid)


def dispositions_set(tgid: int) -> Token:
    """Signal dispositions are the recorded ones."""
    return Token("dispositions", tgid)


def timers_armed(tgid: int) -> Token:
    """itimers and POSIX timers run."""
    return Token("timers", tgid)


def restart_armed(tid: int) -> Token:
    """The thread's restart_block is real again (all signals still blocked, none queued)."""
    return Token("rearmed", tid)


def signals_queued(tid: int) -> Token:
    """The thread's pending signals are queued (tid == tgid: the process's as well)."""
    return Token("pending", tid)


def last_signals_queued(tid: int) -> Token:
    """Also those signals are queued that must come behind the thread's last tape."""
    return Token("last_pending", tid)


def creds_set(tid: int) -> Token:
    """The thread has its recorded credentials; privileged calls are over."""
    return Token("creds", tid)


def limits_set(tgid: int) -> Token:
    """Resource limits are the recorded ones."""
    return Token("limits", tgid)


def seccomp_set(tid: int) -> Token:
    """The thread's filters are installed (calls still pass: PTRACE_O_SUSPEND_SECCOMP)."""
    return Token("seccomp", tid)


def thread_done(tid: int) -> Token:
    """The thread plays no more tapes; only its registers and mask are left to load."""
    return Token("done", tid)


class Scratch(NamedTuple):
    """Room in the tape's data area that a call may write: `size_bytes`, zeroed, 64-aligned."""

    size_bytes: int


class Blob:
    """Bytes in the tape's data area that a call reads, with pointers to other blobs inside.

    `pointers` are (offset, what) pairs: the address of `what` is stored at `offset` as u64.
    The same Blob (or Scratch) object used twice within one step has one address.
    """

    __slots__ = ("content", "pointers")

    def __init__(
        self, content: bytes, pointers: tuple[tuple[int, Blob | Scratch], ...] = ()
    ) -> None:
        self.content = content
        self.pointers = pointers

    def content_at(self, lag_ns: int) -> bytes:
        """Return the bytes for a clock that still lags `lag_ns` behind the moment of the freeze."""
        del lag_ns
        return self.content

    def __repr__(self) -> str:
        shown = self.content if len(self.content) <= 48 else self.content[:45] + b"..."
        return f"&{shown!r}"


class TimevalLeft(Blob):
    """Bytes with a struct timeval in them that counts from the moment of the freeze.

    It is stretched by what the target's clock lags behind that moment when the call is made. Zero
    stays zero: it means "disarmed".
    """

    __slots__ = ("offset",)

    def __init__(self, content: bytes, offset: int) -> None:
        super().__init__(content)
        self.offset = offset

    def content_at(self, lag_ns: int) -> bytes:
        """Return the bytes with the lag added to the time at `offset`."""
        seconds, microseconds = _TIMEVAL.unpack_from(self.content, self.offset)
        total = seconds * 1_000_000 + microseconds
        if total == 0:
            return self.content
        content = bytearray(self.content)
        left = max(total + lag_ns // 1000, 1)
        _TIMEVAL.pack_into(content, self.offset, *divmod(left, 1_000_000))
        return bytes(content)


Arg = int | Blob | Scratch


def c_string(text: bytes | str) -> Blob:
    """Return a zero-terminated string for a tape (paths are file-system encoded)."""
    raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return Blob(raw + b"\0")


class Expect(enum.IntEnum):
    """What a call's result must be."""

    EXACT = 0
    NOT_NEGATIVE = 1
    ANY = 2


class Entry(enum.IntEnum):
    """The instruction by which the kernel is entered."""

    SYSCALL = 0
    INT80 = 1


class Call(NamedTuple):
    """One system call on a tape. `args` has at most six; the rest are 0."""

    nr: int
    args: tuple[Arg, ...] = ()
    value: int = 0
    """The result that is expected under EXACT (raw -errno convention)."""
    expect: Expect = Expect.EXACT
    entry: Entry = Entry.SYSCALL


class Executor(enum.Enum):
    """Who carries a step out."""

    HOST = "host"
    TAPE = "tape"
    PTRACE = "ptrace"


class Action(Protocol):
    """Something that the restorer itself does: inert, printable, performed once."""

    def perform(self, restorer: Restorer) -> None:
        """Do it. Raises RestoreError (or OSError, which the restorer wraps with the step)."""

    def describe(self) -> str:
        """Return one line for `--dry-run`: no kernel address, no raw control characters."""


class Step(NamedTuple):
    """One node of the plan's graph."""

    executor: Executor
    tid: int
    """Whose tape or ptrace stop; 0 for the host."""
    why: str
    calls: tuple[Call, ...] = ()
    action: Action | None = None
    needs: tuple[Token, ...] = ()
    """Tokens that some step must provide; a plan without a provider is a bug."""
    after: tuple[Token, ...] = ()
    """Tokens that order this step if anybody provides them."""
    provides: tuple[Token, ...] = ()

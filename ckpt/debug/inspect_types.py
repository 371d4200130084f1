"""What `inspect` finds, as plain values: the JSON of the command, and what its text is made from.

Every text in them is safe to print. None means: not known, and `ProcessReport.gaps` says why.
Addresses are the target's own; of the kernel there are names only.
"""

from __future__ import annotations

import msgspec

from ckpt.debug.call_args import Call


class _Value(msgspec.Struct, frozen=True, omit_defaults=False):
    """Base of all."""


class Who(_Value, frozen=True):
    """A task that has to do with the one shown."""

    tid: int
    tgid: int
    comm: str


class Deadline(_Value, frozen=True):
    """When a wait ends by itself."""

    clock: str
    left_ns: int
    source: str


class Blocked(_Value, frozen=True):
    """For how long a thread has been off its CPU, and from what that is known."""

    since_ns: int
    source: str


class FutexWord(_Value, frozen=True):
    """A futex and who has to do with it."""

    address: int
    place: str
    """What the address falls in."""
    value: int | None
    """None: it cannot be read."""
    owner_tid: int
    """0: none, or the word does not say."""
    owner: str
    """Who that is, or `not a living thread`; `by glibc` when its mutex, not the word, tells."""
    has_waiters: bool
    """FUTEX_WAITERS; only where the word holds an owner."""
    owner_died: bool
    waiters: tuple[Who, ...]
    """Threads blocked in futex calls on it now, in this process or others."""


class RobustEntry(_Value, frozen=True):
    """One lock on a robust list."""

    entry: int
    is_pi: bool
    futex: FutexWord


class RobustList(_Value, frozen=True):
    """One robust futex list, walked."""

    head: int
    is_compat: bool
    futex_offset: int
    entries: tuple[RobustEntry, ...]
    pending: RobustEntry | None
    """list_op_pending: a lock being taken or released at this moment."""
    problem: str
    """Why the walk ended early; empty: it came back to the head."""


class Restart(_Value, frozen=True):
    """A restart_block."""

    function: str
    arguments: dict[str, str]
    left_ns: int | None
    is_live: bool
    """False: left over from an earlier call; the registers do not say that it will be used."""


class AltStack(_Value, frozen=True):
    """An alternate signal stack."""

    address: int
    size: int
    flags: str
    is_on: bool | None
    """Whether the thread's stack pointer is inside."""


class Instruction(_Value, frozen=True):
    """One instruction near rip."""

    address: int
    text: str
    is_next: bool
    """rip stands at it."""


class Frame(_Value, frozen=True):
    """One frame of the user stack."""

    address: int
    place: str


class RseqState(_Value, frozen=True):
    """A registration of restartable sequences, and what its memory says."""

    address: int
    length: int
    signature: int
    cpu: int | None
    critical_section: str
    """Descriptor that the thread has set, empty: none (or the memory cannot be read)."""


class ThreadReport(_Value, frozen=True, kw_only=True):
    """One thread."""

    tid: int
    tgid: int
    comm: str
    state: str
    """The letter of /proc/PID/stat."""
    state_text: str
    cpu: int | None
    blocked: Blocked | None
    deadline: Deadline | None
    call: Call | None
    """The system call that it is in."""
    call_note: str
    """What is special: interrupted, to be restarted, 32-bit entry."""
    futex: FutexWord | None
    """That it waits for."""
    kernel_stack: tuple[str, ...] | None
    rip: int | None
    rsp: int | None
    registers: dict[str, int] | None
    user_stack: tuple[Frame, ...]
    instructions: tuple[Instruction, ...]
    build_id: str
    """Of the file that rip is in."""
    restart: Restart | None
    robust_lists: tuple[RobustList, ...]
    altstack: AltStack | None
    pending: tuple[str, ...]
    masked: tuple[str, ...]
    """Signals that it blocks."""
    saved_mask: tuple[str, ...] | None
    """What comes back after sigsuspend, ppoll and their like; None: no temporary mask."""
    tracer: Who | None
    rseq: RseqState | None
    seccomp: str
    no_new_privs: bool
    differs: tuple[str, ...]
    """What it does not share with its leader: mm, files, fs, sighand, credentials, namespaces."""
    nvcsw: int
    nivcsw: int
    cpu_time_ns: int | None
    gaps: tuple[str, ...]


class Disposition(_Value, frozen=True):
    """What a signal does to the process, when that is not the default."""

    signal: str
    handler: int
    place: str
    """`ignored`, or the handler's symbol."""
    flags: str
    mask: tuple[str, ...]


class Timer(_Value, frozen=True):
    """A POSIX timer or an interval timer."""

    name: str
    clock: str
    left_ns: int | None
    """None: disarmed."""
    interval_ns: int
    notifies: str
    overrun: int


class Sharing(_Value, frozen=True):
    """Who else has one of the process's objects."""

    what: str
    """mm, files, fs, sighand."""
    threads: int
    """Of its own threads."""
    others: tuple[Who, ...]
    """Tasks of other processes."""
    users: int | None
    """References that the kernel counts; more than the tasks found: somebody else holds it."""
    is_known: bool


class Credentials(_Value, frozen=True):
    """Who the process is: real, effective, saved, file system."""

    uids: tuple[int, ...]
    gids: tuple[int, ...]
    groups: tuple[int, ...]
    capabilities: dict[str, str]
    securebits: int | None


class Limit(_Value, frozen=True):
    """One resource limit; None: unlimited."""

    name: str
    soft: int | None
    hard: int | None


class TreeNode(_Value, frozen=True):
    """One process of the tree."""

    pid: int
    comm: str
    state: str
    threads: int
    call: str
    """The call that its first thread is in, empty: none."""
    children: tuple[TreeNode, ...]


class ProcessReport(_Value, frozen=True, kw_only=True):
    """One process."""

    pid: int
    comm: str
    exe: str
    cmdline: str
    kind: str
    """`process`, `32-bit process`, `kernel thread` or `zombie`."""
    parent: Who | None
    group: int
    session: int
    tty: str
    exit_status: str
    """Of a zombie."""
    threads: tuple[ThreadReport, ...]
    thread_count: int
    pending: tuple[str, ...]
    """Signals pending for the whole process."""
    dispositions: tuple[Disposition, ...] | None
    timers: tuple[Timer, ...] | None
    limits: tuple[Limit, ...] | None
    sharing: tuple[Sharing, ...]
    credentials: Credentials | None
    deadlocks: tuple[tuple[int, ...], ...]
    """Threads that wait for each other in a circle, each for a futex that the next one owns."""
    flags: tuple[str, ...]
    """What the process is in the middle of: group stop, exit, vfork."""
    gaps: tuple[str, ...]


class Inspection(_Value, frozen=True, kw_only=True):
    """One look."""

    source: str
    """`bpf`, or `proc` without it."""
    pid: int
    """The process or thread that was asked for."""
    observed_ns: int
    """CLOCK_MONOTONIC of the host."""
    tree: TreeNode | None
    """The process with its children, if it has any."""
    processes: tuple[ProcessReport, ...]
    notes: tuple[str, ...]

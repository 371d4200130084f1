"""What one observation of the kernel yields, as plain typed values.

The structs below are filled by the BPF iterators (``ckpt.host.bpf``) or, without BPF, by read-only
system calls. A field that only BPF can see is ``X | None`` and None means "not seen" (the name is
then listed in ``KernelView.gaps``), unless the field says what else None means.

No kernel address leaves this layer: functions are symbol names, and objects are ``KernelId``, small
numbers that are equal exactly when two fields point to the same live kernel object. Ids are valid
inside one ``Observer`` only. Field names and bit values are the kernel's (Linux 6.18).
"""

from __future__ import annotations

from typing import Final, NewType, TypeAlias

import msgspec

KernelId = NewType("KernelId", int)
"""Identity of a kernel object inside one Observer. Zero is a null pointer."""

NO_OBJECT: Final = KernelId(0)

# task->__state, include/linux/sched.h (6.18).
TASK_RUNNING: Final = 0x0
TASK_INTERRUPTIBLE: Final = 0x1
TASK_UNINTERRUPTIBLE: Final = 0x2
TASK_STOPPED_BIT: Final = 0x4
TASK_TRACED_BIT: Final = 0x8
# task->flags, include/linux/sched.h (6.18).
PF_EXITING: Final = 0x4
PF_FORKNOEXEC: Final = 0x40
PF_SUPERPRIV: Final = 0x100
PF_KTHREAD: Final = 0x200000
# task->exit_state
EXIT_DEAD: Final = 0x10
EXIT_ZOMBIE: Final = 0x20
# thread_info.status, arch/x86/include/asm/thread_info.h: in a 32-bit system call.
TS_COMPAT: Final = 0x2
# signal->flags, include/linux/sched/signal.h
SIGNAL_STOP_STOPPED: Final = 0x1
SIGNAL_STOP_CONTINUED: Final = 0x2
SIGNAL_GROUP_EXIT: Final = 0x4
SIGNAL_UNKILLABLE: Final = 0x40


class _View(msgspec.Struct, frozen=True, gc=False):
    """Base of all views: immutable, and not tracked by the garbage collector."""


class NanosleepRestart(_View, frozen=True, gc=False, tag=True):
    """restart_block of hrtimer_nanosleep_restart and alarm_timer_nsleep_restart.

    ``expires_ns`` is absolute in ``clockid`` of the host (no time namespace offset applied), and
    includes the timer slack: it is ``latest_ns`` of the BlockedTimer, not what was asked for;
    ``rmtp`` is the user's pointer for the remaining time (0: none), ``rmtp_type`` is 0 none,
    1 native, 2 compat (TT_NONE, TT_NATIVE, TT_COMPAT).
    """

    fn: str
    clockid: int
    rmtp_type: int
    rmtp: int
    expires_ns: int


class CpuSleepRestart(_View, frozen=True, gc=False, tag=True):
    """restart_block of posix_cpu_nsleep_restart; ``expires_ns`` is absolute in that CPU clock."""

    fn: str
    clockid: int
    rmtp_type: int
    rmtp: int
    expires_ns: int


class FutexRestart(_View, frozen=True, gc=False, tag=True):
    """restart_block of futex_wait_restart.

    ``expires_ns`` is absolute, in CLOCK_REALTIME if ``flags`` has FLAGS_CLOCKRT (0x20) and in the
    host's CLOCK_MONOTONIC otherwise; None when the wait has no timeout (FLAGS_HAS_TIMEOUT 0x40).
    """

    fn: str
    uaddr: int
    val: int
    flags: int
    bitset: int
    uaddr2: int
    expires_ns: int | None


class PollRestart(_View, frozen=True, gc=False, tag=True):
    """restart_block of do_restart_poll; ``expires_ns`` is host CLOCK_MONOTONIC, None: for ever."""

    fn: str
    ufds: int
    nfds: int
    expires_ns: int | None


class OtherRestart(_View, frozen=True, gc=False, tag=True):
    """A restart function that this version knows no arguments for."""

    fn: str


RestartBlock: TypeAlias = (
    NanosleepRestart | CpuSleepRestart | FutexRestart | PollRestart | OtherRestart
)


class BlockedTimer(_View, frozen=True, gc=False):
    """The timer that ends a thread's blocked call, found on its kernel stack.

    ``kind`` is "hrtimer" (exact), "process_timeout" (a jiffies timer, exact to one tick, given in
    CLOCK_MONOTONIC) or, without BPF, "estimate" (see ``ckpt.host.proc_waits``). ``expires_ns`` is
    the earliest permitted time, i.e. the deadline that was asked for, absolute in CLOCK_* number
    ``clockid`` of the host; ``latest_ns`` adds timer slack.
    """

    kind: str
    clockid: int
    expires_ns: int
    latest_ns: int


class UserRegs(_View, frozen=True, gc=False):
    """The part of pt_regs that identifies a system call: enough to see it is still the same."""

    orig_ax: int
    ax: int
    ip: int
    sp: int


class Rseq(_View, frozen=True, gc=False):
    """rseq(2) registration; ``address`` 0: none."""

    address: int
    length: int
    signature: int


class Namespaces(_View, frozen=True, gc=False):
    """A struct nsproxy: inode numbers of its namespaces, as in /proc/TID/ns/*.

    ``pid_for_children`` is what children will be in; the task's own is ThreadView.pid_ns.
    """

    count: int | None
    uts: int
    ipc: int
    mnt: int
    pid_for_children: int
    net: int
    time: int
    time_for_children: int
    cgroup: int


class ThreadView(_View, frozen=True, gc=False, kw_only=True):
    """One struct task_struct.

    ``restart`` is None for do_no_restart_syscall. It is stale unless the registers hold -516.
    ``blocked_timer`` is None for a thread that has none or does not sleep (also: stopped ones).
    ``tid``, ``tgid`` and parents are numbers of the observer's pid namespace (0: outside of it).
    """

    tid: int
    tgid: int
    comm: str
    state: int
    exit_state: int
    exit_code: int | None
    flags: int | None
    observed_ns: int
    """CLOCK_MONOTONIC of the host when this thread was looked at."""
    boottime_ns: int | None
    """CLOCK_BOOTTIME of the host at the same moment."""

    restart: RestartBlock | None
    blocked_timer: BlockedTimer | None
    regs: UserRegs | None
    ti_status: int | None
    ti_flags: int | None
    nvcsw: int
    nivcsw: int
    exec_start_ns: int | None
    start_boottime_ns: int | None
    """Since boot, host; start_boottime of the task."""
    utime_ns: int | None
    stime_ns: int | None
    runtime_ns: int | None
    """Time on a CPU, as the scheduler counts it (CLOCK_THREAD_CPUTIME_ID)."""

    robust_list: int
    compat_robust_list: int | None
    sas_ss_sp: int | None
    sas_ss_size: int | None
    sas_ss_flags: int | None
    set_child_tid: int | None
    clear_child_tid: int | None
    exit_signal: int | None
    pdeath_signal: int | None
    personality: int
    timer_slack_ns: int
    default_timer_slack_ns: int | None
    rseq: Rseq | None

    blocked: int
    real_blocked: int | None
    saved_sigmask: int | None
    """The mask that comes back after sigsuspend/ppoll; valid with ``restore_sigmask``."""
    restore_sigmask: bool | None
    pending: int
    """Thread-directed pending signals; bit n-1 is signal n, as in all masks here."""

    policy: int
    prio: int | None
    static_prio: int | None
    normal_prio: int | None
    rt_priority: int

    ptrace: int | None
    """PT_* bits; 0: not traced."""
    tracer_tid: int
    jobctl: int | None
    seccomp_mode: int
    seccomp_filter_count: int
    no_new_privs: bool
    in_execve: bool | None
    has_vfork_done: bool | None
    """The task is a vfork child whose parent still waits for it to exec or exit."""
    has_children: bool | None
    """The thread has children, zombies included (each thread has its own list)."""
    parent_tgid: int
    """Thread group of real_parent."""
    real_parent_tid: int | None

    mm: KernelId | None
    files: KernelId | None
    fs: KernelId | None
    sighand: KernelId | None
    signal: KernelId | None
    nsproxy: KernelId | None
    cred: KernelId | None
    has_io_uring: bool | None
    has_sysvsem_undo: bool | None
    has_syscall_user_dispatch: bool | None
    pid_ns: int | None
    """Inode number of the pid namespace the task itself is in."""
    user_ns: int | None
    securebits: int | None = None
    """cred->securebits, SECBIT_*; None: not seen."""
    tsc_faults: bool | None = None
    cpuid_faults: bool | None = None
    """RDTSC and CPUID raise SIGSEGV; None: `ti_flags` has to tell."""
    files_count: int | None
    fs_users: int | None
    umask: int | None
    sighand_count: int | None
    namespaces: Namespaces | None


class Rlimit(_View, frozen=True, gc=False):
    """One struct rlimit; RLIM_INFINITY is 2**64 - 1."""

    soft: int
    hard: int


class SigAction(_View, frozen=True, gc=False):
    """One struct k_sigaction; handler 0 SIG_DFL, 1 SIG_IGN."""

    handler: int
    flags: int
    restorer: int
    mask: int


class Itimer(_View, frozen=True, gc=False):
    """ITIMER_REAL, VIRTUAL or PROF; value 0: disarmed."""

    value_ns: int
    interval_ns: int


class PosixTimer(_View, frozen=True, gc=False):
    """One struct k_itimer.

    ``expires_ns`` is absolute in ``clockid`` of the host, None when disarmed. ``notify`` is
    SIGEV_*, ``notify_tid`` the thread for SIGEV_THREAD_ID. ``value_ns`` is the remaining time when
    seen (None: disarmed).
    """

    timer_id: int
    clockid: int
    notify: int
    signo: int
    sigval: int
    notify_tid: int
    expires_ns: int | None
    value_ns: int | None
    interval_ns: int
    overrun: int
    overrun_last: int | None
    signal_queued: bool | None
    """Its signal is queued and not yet delivered (requeue state)."""


class ProcessView(_View, frozen=True, gc=False, kw_only=True):
    """One struct signal_struct with its sighand: what all threads of a process share."""

    tgid: int
    leader_tid: int
    nr_threads: int
    live: int | None
    sighand_count: int | None
    signal_refs: int | None
    rlimits: tuple[Rlimit, ...]
    """16, by RLIMIT_* number."""
    sigactions: tuple[SigAction, ...] | None
    """64; element n-1 is signal n."""
    shared_pending: int
    posix_timers: tuple[PosixTimer, ...] | None
    timer_create_restore_ids: bool | None
    next_posix_timer_id: int | None
    itimer_real: Itimer | None
    itimer_virtual: Itimer | None
    itimer_prof: Itimer | None
    is_child_subreaper: bool | None
    has_child_subreaper: bool | None
    signal_flags: int | None
    """SIGNAL_*."""
    group_stop_count: int | None
    group_exit_code: int | None
    pgrp: int
    session: int
    is_session_leader: bool
    tty: KernelId | None
    tty_index: int | None
    """Index of the controlling terminal in its driver; None: no terminal (or not seen)."""
    tty_dev: int
    """(major << 8 | minor) as tty_nr in /proc/PID/stat; 0: none."""
    oom_score_adj: int
    oom_score_adj_min: int | None


class MmView(_View, frozen=True, gc=False, kw_only=True):
    """One struct mm_struct."""

    mm: KernelId
    mm_users: int | None
    mm_count: int | None
    start_code: int
    end_code: int
    start_data: int
    end_data: int
    start_brk: int
    brk: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int
    flags: int | None
    """mm->flags: dumpable (bits 0-1), coredump filter (2-10), MMF_* above."""
    dumpable: int | None
    coredump_filter: int
    has_mdwe: bool | None
    has_mdwe_no_inherit: bool | None
    thp_disabled: bool | None
    def_flags: int | None
    """VM_* given to new areas (mlockall(MCL_FUTURE): VM_LOCKED)."""
    map_count: int | None
    total_vm: int | None
    locked_vm: int | None
    saved_auxv: bytes
    """Pairs of u64, up to and with AT_NULL."""
    ldt: bytes | None
    """The entries of the local descriptor table, 8 bytes each; empty: none."""
    aio_contexts: int | None
    membarrier_state: int | None
    pkey_allocation_map: int | None
    vdso: int | None
    """Address of the vdso; 0: none."""
    exe: KernelId | None
    exe_dev: int | None
    exe_ino: int | None
    has_notify_users: bool | None
    """mm->notifier_subscriptions is set: somebody (KVM, RDMA, io) watches this memory."""


class FileView(_View, frozen=True, gc=False, kw_only=True):
    """One open descriptor and the struct file behind it."""

    fd: int
    cloexec: bool
    file: KernelId
    f_op: str
    """Symbol name of file->f_op, such as pipefifo_fops; "" when there is no symbol."""
    f_count: int | None
    f_mode: int | None
    f_flags: int
    f_pos: int
    ino: int
    dev: int
    """s_dev in userspace encoding (as st_dev)."""
    mode: int
    """i_mode, with the type bits."""
    nlink: int
    rdev: int
    size: int
    sb_magic: int
    fs_type: str
    inode: KernelId | None
    private: KernelId | None
    """Identity of file->private_data: an eventfd, epoll, tty file or pipe met twice is the same."""
    anon_name: str
    """Name of the dentry when the inode is anonymous ("[eventfd]"), else ""."""
    owner_pid: int
    """f_owner: process (or -group) that gets SIGIO; 0: nobody."""
    owner_type: int
    """F_OWNER_TID 0, F_OWNER_PID 1, F_OWNER_PGRP 2."""
    owner_uid: int
    owner_euid: int
    owner_signum: int
    has_locks: bool | None
    """inode->i_flctx is set: somebody holds or held a lock or lease on the inode."""


class VmaView(_View, frozen=True, gc=False):
    """One struct vm_area_struct; ``flags`` are VM_* of the running kernel, end exclusive."""

    start: int
    end: int
    flags: int
    pgoff: int
    file: KernelId
    dev: int
    ino: int
    vm_ops: str
    anon_name: str | None
    has_anon_vma: bool
    has_policy: bool
    has_userfaultfd: bool


class KernelView(msgspec.Struct, frozen=True, kw_only=True):
    """One pass over the threads of one process.

    ``source`` is "bpf" or "syscalls". ``gaps`` names what this kernel (or the lack of BPF) hid,
    as "field: consequence".
    """

    source: str
    tgid: int
    observed_ns: int
    boottime_ns: int | None
    threads: dict[int, ThreadView]
    process: ProcessView | None
    mms: dict[KernelId, MmView]
    gaps: tuple[str, ...] = ()

    @property
    def mm(self) -> MmView | None:
        """The process's memory: all threads of a process share one mm; None: all have exited."""
        return next(iter(self.mms.values()), None)


class TaskEvent(_View, frozen=True, gc=False):
    """One fork, exec or exit of a watched process, or a restart block being armed.

    ``kind``: "fork" (``tid`` made ``other_tid`` of process ``other_tgid``), "exec", "exit",
    "restart_armed" (a call returned -516, ``restart`` says with what), "restart_syscall" (entered).
    """

    kind: str
    time_ns: int
    """CLOCK_MONOTONIC of the host."""
    tid: int
    tgid: int
    other_tid: int = 0
    other_tgid: int = 0
    syscall: int | None = None
    restart: RestartBlock | None = None

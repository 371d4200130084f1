"""Records that the BPF programs write, as bytes and as named fields.

Mirrors ``bpf/*.h`` field by field; ``tests/abi`` compares sizes and offsets with a compiler's. The
classes are flat: a struct inside a struct contributes its fields in place.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec


class _Record(msgspec.Struct, gc=False):
    """Base of all records; made from what the struct format unpacks, in order."""


class Restart(_Record):
    """struct restart (bpf/restart.h)."""

    fn: int
    nanosleep_rmtp: int
    nanosleep_expires_ns: int
    nanosleep_clockid: int
    nanosleep_type: int
    futex_uaddr: int
    futex_uaddr2: int
    futex_time_ns: int
    futex_val: int
    futex_flags: int
    futex_bitset: int
    poll_nfds: int
    poll_ufds: int
    poll_end_s: int
    poll_end_ns: int
    poll_has_timeout: int
    padding: int


RESTART: Final = struct.Struct("<3Q2i3Q3IiQ2qiI")


class TasksCore(_Record):
    """struct tasks_core (bpf/tasks.h)."""

    kind: int
    size: int
    tid: int
    tgid: int
    parent_tgid: int
    parent_tid: int
    tracer_tid: int
    state: int
    exit_state: int
    exit_code: int
    flags: int
    exit_signal: int
    pdeath_signal: int
    personality: int
    ptrace: int
    policy: int
    prio: int
    static_prio: int
    normal_prio: int
    rt_priority: int
    seccomp_mode: int
    seccomp_filters: int
    bits: int
    ti_status: int
    pid_ns: int
    user_ns: int
    observed_ns: int
    boottime_ns: int
    jobctl: int
    nvcsw: int
    nivcsw: int
    exec_start_ns: int
    start_boottime_ns: int
    utime_ns: int
    stime_ns: int
    runtime_ns: int
    comm: bytes


TASKS_CORE: Final = struct.Struct("<2I5i2IiI2i3I3i7I10Q16s")


class TasksAbi(_Record):
    """struct tasks_abi (bpf/tasks.h)."""

    kind: int
    size: int
    sas_ss_flags: int
    rseq_len: int
    rseq_sig: int
    files_count: int
    fs_users: int
    umask: int
    sighand_count: int
    securebits: int
    ti_flags: int
    robust_list: int
    compat_robust_list: int
    sas_ss_sp: int
    sas_ss_size: int
    set_child_tid: int
    clear_child_tid: int
    timer_slack_ns: int
    default_timer_slack_ns: int
    rseq: int
    blocked: int
    real_blocked: int
    saved_sigmask: int
    pending: int
    orig_ax: int
    ax: int
    ip: int
    sp: int
    mm: int
    files: int
    fs: int
    sighand: int
    signal: int
    nsproxy: int
    cred: int


TASKS_ABI: Final = struct.Struct("<10I25Q")


class TasksRestart(_Record):
    """struct tasks_restart (bpf/tasks.h)."""

    kind: int
    size: int
    fn: int
    nanosleep_rmtp: int
    nanosleep_expires_ns: int
    nanosleep_clockid: int
    nanosleep_type: int
    futex_uaddr: int
    futex_uaddr2: int
    futex_time_ns: int
    futex_val: int
    futex_flags: int
    futex_bitset: int
    poll_nfds: int
    poll_ufds: int
    poll_end_s: int
    poll_end_ns: int
    poll_has_timeout: int
    padding: int


TASKS_RESTART: Final = struct.Struct("<2I3Q2i3Q3IiQ2qiI")


class TasksBlocked(_Record):
    """struct tasks_blocked (bpf/tasks.h)."""

    kind: int
    size: int
    type: int
    clockid: int
    expires: int
    latest: int
    jiffies: int


TASKS_BLOCKED: Final = struct.Struct("<3Ii3Q")


class TasksNamespaces(_Record):
    """struct tasks_namespaces (bpf/tasks.h)."""

    kind: int
    size: int
    nsproxy: int
    refs: int
    uts: int
    ipc: int
    mnt: int
    pid_for_children: int
    net: int
    time: int
    time_for_children: int
    cgroup: int
    padding: int


TASKS_NAMESPACES: Final = struct.Struct("<2IQ10I")


class TasksProcess(_Record):
    """struct tasks_process (bpf/tasks.h)."""

    kind: int
    size: int
    leader_tid: int
    nr_threads: int
    live: int
    signal_refs: int
    sighand_count: int
    bits: int
    flags: int
    group_stop_count: int
    group_exit_code: int
    pgrp: int
    session: int
    is_session_leader: int
    tty_index: int
    tty_major: int
    tty_minor_start: int
    oom_score_adj: int
    oom_score_adj_min: int
    next_posix_timer_id: int
    real_state: int
    has_posix_timers: int
    host_tgid: int
    pid_level: int
    shared_pending: int
    tty: int
    real_expires_ns: int
    real_incr_ns: int
    prof_expires_ns: int
    prof_incr_ns: int
    virt_expires_ns: int
    virt_incr_ns: int
    group_utime_ns: int
    group_stime_ns: int
    group_runtime_ns: int


TASKS_PROCESS: Final = struct.Struct("<2I3i4I11i2IiI11Q")


class TasksMm(_Record):
    """struct tasks_mm (bpf/tasks.h)."""

    kind: int
    size: int
    mm: int
    mm_users: int
    mm_count: int
    map_count: int
    membarrier_state: int
    pkey_map: int
    ldt_entries: int
    padding: int
    exe_dev: int
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
    flags: int
    def_flags: int
    total_vm: int
    locked_vm: int
    vdso: int
    exe: int
    exe_ino: int
    notifier: int


TASKS_MM: Final = struct.Struct("<2IQ2Ii5I19Q")


class TimersRecord(_Record):
    """struct timers_record (bpf/timers.h)."""

    node: int
    id: int
    clockid: int
    notify: int
    signo: int
    notify_tid: int
    status: int
    signal_queued: int
    enqueued: int
    sigval: int
    real_expires_ns: int
    cpu_expires_ns: int
    alarm_expires_ns: int
    interval_ns: int
    overrun: int
    overrun_last: int


TIMERS_RECORD: Final = struct.Struct("<Q6i2I5Q2q")


class FilesRecord(_Record):
    """struct files_record (bpf/files.h)."""

    fd: int
    cloexec: int
    f_mode: int
    f_flags: int
    dev: int
    mode: int
    nlink: int
    rdev: int
    owner_pid: int
    owner_type: int
    owner_uid: int
    owner_euid: int
    owner_signum: int
    has_locks: int
    file: int
    f_count: int
    f_op: int
    f_pos: int
    inode: int
    ino: int
    i_size: int
    sb_magic: int
    private_data: int
    release: int
    read_iter: int
    read: int
    write: int
    poll: int
    open: int
    unlocked_ioctl: int
    iterate_shared: int
    show_fdinfo: int
    fs_type: bytes
    anon_name: bytes


FILES_RECORD: Final = struct.Struct("<8Ii3IiIQqQq2Qq11Q16s40s")


class ReadyRecord(_Record):
    """struct ready_record (bpf/ready.h)."""

    epoll: int
    file: int
    fd: int
    padding: int


READY_RECORD: Final = struct.Struct("<2QiI")


class AreasRecord(_Record):
    """struct areas_record (bpf/areas.h)."""

    start: int
    end: int
    flags: int
    pgoff: int
    file: int
    ino: int
    vm_ops: int
    fault: int
    anon_vma: int
    policy: int
    userfaultfd: int
    dev: int
    has_name: int
    anon_name: bytes


AREAS_RECORD: Final = struct.Struct("<11Q2I80s")


class EventsRecord(_Record):
    """struct events_record (bpf/events.h)."""

    kind: int
    tid: int
    tgid: int
    other_tid: int
    other_tgid: int
    syscall: int
    time_ns: int
    fn: int
    nanosleep_rmtp: int
    nanosleep_expires_ns: int
    nanosleep_clockid: int
    nanosleep_type: int
    futex_uaddr: int
    futex_uaddr2: int
    futex_time_ns: int
    futex_val: int
    futex_flags: int
    futex_bitset: int
    poll_nfds: int
    poll_ufds: int
    poll_end_s: int
    poll_end_ns: int
    poll_has_timeout: int
    padding: int


EVENTS_RECORD: Final = struct.Struct("<I5i4Q2i3Q3IiQ2qiI")


class StackRecord(_Record):
    """struct stack_record (bpf/stack.h) up to the two arrays."""

    tid: int
    on_cpu: int
    cpu: int
    frame_count: int
    state: int
    exit_state: int
    ti_status: int
    mmap_lock_owner: int
    mmap_lock_count: int
    observed_ns: int
    last_arrival_ns: int
    last_run_ns: int
    exec_start_ns: int
    reader_arrival_ns: int
    reader_run_ns: int
    reader_exec_start_ns: int


STACK_HEAD: Final = struct.Struct("<i6Ii8Q")
STACK_USER_WORDS: Final = 21
STACK_MAX_FRAMES: Final = 40
STACK_RECORD: Final = struct.Struct(f"<i6Ii8Q{STACK_USER_WORDS}Q{STACK_MAX_FRAMES}Q")


class PeersRecord(_Record):
    """struct peers_record (bpf/peers.h)."""

    tid: int
    tgid: int
    parent_tgid: int
    tracer_tid: int
    state: int
    exit_state: int
    flags: int
    on_cpu: int
    ti_status: int
    padding: int
    mm: int
    files: int
    fs: int
    sighand: int
    orig_ax: int
    bx: int
    cx: int
    dx: int
    si: int
    di: int
    bp: int
    r10: int
    r8: int
    r9: int
    comm: bytes


PEERS_RECORD: Final = struct.Struct("<4i6I14Q16s")

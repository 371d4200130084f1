/*
 * Records of the iterator over tasks (tasks.bpf.c). Each starts with its kind and its size in
 * bytes. Addresses of kernel objects serve for identity only and stay inside ckpt/host.
 */
#ifndef CKPT_TASKS_H
#define CKPT_TASKS_H

#include "restart.h"

/* How deep a sleep's timer is looked for: sleeps in system calls use less than half of this. */
#define TASKS_STACK_WORDS 128
#define TASKS_STACK_BLOCK 16
#define TASKS_AIO_SLOTS 64
#define TASKS_LDT_BYTES 4096
#define TASKS_BYTES_HEADER 16

enum tasks_kind {
	TASKS_CORE = 1,
	TASKS_ABI = 2,
	TASKS_RESTART = 3,
	TASKS_BLOCKED = 4,
	TASKS_NAMESPACES = 5,
	TASKS_PROCESS = 6,
	TASKS_RLIMITS = 7,
	TASKS_SIGACTIONS = 8,
	TASKS_MM = 9,
	TASKS_AUXV = 10,
	TASKS_AIO = 11,
	TASKS_LDT = 12,
};

/* tasks_core.bits */
#define TASKS_RESTORE_SIGMASK 0x1
#define TASKS_IN_EXECVE 0x2
#define TASKS_NO_NEW_PRIVS 0x4
#define TASKS_IO_URING 0x8
#define TASKS_SEM_UNDO 0x10
#define TASKS_USER_DISPATCH 0x20
#define TASKS_VFORK_DONE 0x40
#define TASKS_CHILDREN 0x80

/* One a task, the first of its records. */
struct tasks_core {
	__u32 kind;
	__u32 size;
	__s32 tid;
	__s32 tgid;
	__s32 parent_tgid;
	__s32 parent_tid;
	__s32 tracer_tid;
	__u32 state;
	__u32 exit_state;
	__s32 exit_code;
	__u32 flags;
	__s32 exit_signal;
	__s32 pdeath_signal;
	__u32 personality;
	__u32 ptrace;
	__u32 policy;
	__s32 prio;
	__s32 static_prio;
	__s32 normal_prio;
	__u32 rt_priority;
	__u32 seccomp_mode;
	__u32 seccomp_filters;
	__u32 bits;
	__u32 ti_status;
	__u32 pid_ns;
	__u32 user_ns;
	__u64 observed_ns;
	__u64 boottime_ns;
	__u64 jobctl;
	__u64 nvcsw;
	__u64 nivcsw;
	__u64 exec_start_ns;
	__u64 start_boottime_ns;
	__u64 utime_ns;
	__u64 stime_ns;
	__u64 runtime_ns;
	char comm[16];
};

/* One a task, after tasks_core. */
struct tasks_abi {
	__u32 kind;
	__u32 size;
	__u32 sas_ss_flags;
	__u32 rseq_len;
	__u32 rseq_sig;
	__u32 files_count;
	__u32 fs_users;
	__u32 umask;
	__u32 sighand_count;
	__u32 securebits;
	__u64 ti_flags;
	__u64 robust_list;
	__u64 compat_robust_list;
	__u64 sas_ss_sp;
	__u64 sas_ss_size;
	__u64 set_child_tid;
	__u64 clear_child_tid;
	__u64 timer_slack_ns;
	__u64 default_timer_slack_ns;
	__u64 rseq;
	__u64 blocked;
	__u64 real_blocked;
	__u64 saved_sigmask;
	__u64 pending;
	__u64 orig_ax;
	__u64 ax;
	__u64 ip;
	__u64 sp;
	__u64 mm;
	__u64 files;
	__u64 fs;
	__u64 sighand;
	__u64 signal;
	__u64 nsproxy;
	__u64 cred;
};

/* task->restart_block, when its function is not do_no_restart_syscall. */
struct tasks_restart {
	__u32 kind;
	__u32 size;
	struct restart block;
};

#define TASKS_BLOCKED_HRTIMER 1
#define TASKS_BLOCKED_JIFFIES 2

/* The timer that a sleeping task waits for. */
struct tasks_blocked {
	__u32 kind;
	__u32 size;
	__u32 type;
	__s32 clockid;
	__u64 expires;
	__u64 latest;
	__u64 jiffies;
};

/* A struct nsproxy: of the leader, and of each task that has another one. */
struct tasks_namespaces {
	__u32 kind;
	__u32 size;
	__u64 nsproxy;
	__u32 refs;
	__u32 uts;
	__u32 ipc;
	__u32 mnt;
	__u32 pid_for_children;
	__u32 net;
	__u32 time;
	__u32 time_for_children;
	__u32 cgroup;
	__u32 padding;
};

/* tasks_process.bits */
#define TASKS_IS_CHILD_SUBREAPER 0x1
#define TASKS_HAS_CHILD_SUBREAPER 0x2
#define TASKS_RESTORE_TIMER_IDS 0x4

/* One a process: signal_struct. */
struct tasks_process {
	__u32 kind;
	__u32 size;
	__s32 leader_tid;
	__s32 nr_threads;
	__s32 live;
	__u32 signal_refs;
	__u32 sighand_count;
	__u32 bits;
	__u32 flags;
	__s32 group_stop_count;
	__s32 group_exit_code;
	__s32 pgrp;
	__s32 session;
	__s32 is_session_leader;
	__s32 tty_index;
	__s32 tty_major;
	__s32 tty_minor_start;
	__s32 oom_score_adj;
	__s32 oom_score_adj_min;
	__s32 next_posix_timer_id;
	__u32 real_state;
	__u32 has_posix_timers;
	__s32 host_tgid;
	__u32 pid_level;
	__u64 shared_pending;
	__u64 tty;
	__u64 real_expires_ns;
	__u64 real_incr_ns;
	__u64 prof_expires_ns;
	__u64 prof_incr_ns;
	__u64 virt_expires_ns;
	__u64 virt_incr_ns;
	__u64 group_utime_ns;
	__u64 group_stime_ns;
	__u64 group_runtime_ns;
};

/* An array as it lies in the kernel: rlimits, dispositions, auxv, AIO table, LDT. */
struct tasks_bytes {
	__u32 kind;
	__u32 size;
	__u32 used;
	__u32 padding;
	char bytes[TASKS_LDT_BYTES];
};

/* An mm_struct. */
struct tasks_mm {
	__u32 kind;
	__u32 size;
	__u64 mm;
	__u32 mm_users;
	__u32 mm_count;
	__s32 map_count;
	__u32 membarrier_state;
	__u32 pkey_map;
	__u32 ldt_entries;
	__u32 padding;
	__u32 exe_dev;
	__u64 start_code;
	__u64 end_code;
	__u64 start_data;
	__u64 end_data;
	__u64 start_brk;
	__u64 brk;
	__u64 start_stack;
	__u64 arg_start;
	__u64 arg_end;
	__u64 env_start;
	__u64 env_end;
	__u64 flags;
	__u64 def_flags;
	__u64 total_vm;
	__u64 locked_vm;
	__u64 vdso;
	__u64 exe;
	__u64 exe_ino;
	__u64 notifier;
};

#endif

/*
 * Records of `ckpt-bpf trace` (trace.bpf.c): what a watched process did, with the task that did it.
 * Tasks are numbered in the pid namespace of the tracer; zero means: outside of it.
 */
#ifndef CKPT_TRACE_H
#define CKPT_TRACE_H

#include "restart.h"

#define TRACE_RING_PAGES 2048
#define TRACE_MAX_WATCHED 16384
#define TRACE_MAX_SENDERS 8192
#define TRACE_MAX_WAITS 32768
#define TRACE_MAX_RESTARTS 32768
/*
 * What the reader sets the number of restarts to when some thread was in one before the trace:
 * never zero again, however many of them end, and whatever was counted at the same moment.
 */
#define TRACE_RESTARTS_NOTED (1ULL << 32)
#define TRACE_COMM_BYTES 16
#define TRACE_PATH_BYTES 128
/* The kernel goes on for 2048 (ROBUST_LIST_LIMIT, include/uapi/linux/futex.h). */
#define TRACE_MAX_ROBUST 256

/* A bit each in option_events. */
enum trace_kind {
	TRACE_FORK = 1,
	TRACE_EXEC = 2,
	TRACE_EXIT = 3,
	TRACE_RESTART_ARMED = 4,
	TRACE_RESTART_ENTERED = 5,
	TRACE_RESTART_RESULT = 6,
	TRACE_EINTR = 7,
	TRACE_SIGNAL = 8,
	TRACE_ALTSTACK = 9,
	TRACE_ROBUST = 10,
	TRACE_FUTEX = 11,
};

struct trace_head {
	__u32 kind;
	__s32 tid;
	__s32 tgid;
	__u32 padding;
	__u64 time_ns;
	char comm[TRACE_COMM_BYTES];
};

struct trace_fork {
	struct trace_head head;
	__s32 child_tid;
	__s32 child_tgid;
};

struct trace_exec {
	struct trace_head head;
	__s32 old_tid;
	__u32 padding;
	char path[TRACE_PATH_BYTES];
};

struct trace_exit {
	struct trace_head head;
	__s32 exit_code;
	__u32 is_last;
};

/* A system call; `result` is what sys_exit showed, `signo` the signal whose handler ended it. */
struct trace_call {
	struct trace_head head;
	__s32 nr;
	__u32 is_compat;
	__s64 result;
	__u64 args[6];
	__s32 signo;
	__u32 padding;
};

struct trace_restart {
	struct trace_call call;
	struct restart restart;
};

enum trace_signal_bits {
	TRACE_SENDER_SEEN = 0x1,
	TRACE_TO_PROCESS = 0x2,
	TRACE_ON_ALTSTACK = 0x4,
	TRACE_FATAL = 0x8,
};

struct trace_signal {
	struct trace_head head;
	__s32 signo;
	__s32 code;
	__u64 handler;
	__u64 sa_flags;
	__u64 fault_address;
	__u64 altstack;
	__u64 altstack_bytes;
	__s32 info_pid;
	__u32 bits;
	__u64 sent_ns;
	__s32 sender_tid;
	__s32 sender_tgid;
	char sender_comm[TRACE_COMM_BYTES];
};

enum trace_robust_status {
	TRACE_ROBUST_DIES = 0,
	TRACE_ROBUST_UNREADABLE = 1,
	TRACE_ROBUST_MORE = 2,
	TRACE_ROBUST_NO_MEMORY = 3,
};

struct trace_robust {
	struct trace_head head;
	__u64 futex;
	__u32 word;
	__u32 status;
	__u32 is_pi;
	__u32 is_pending;
};

/* A wait that has ended. */
struct trace_futex {
	struct trace_head head;
	__u64 futex;
	__u64 began_ns;
	__s64 result;
	__u32 op;
	__u32 was_before;
};

/* Element of `waits`, by tid of the initial namespace; began_ns is 0 outside of a wait. */
struct trace_wait {
	__u64 futex;
	__u64 began_ns;
	__u32 op;
	__u32 was_before;
	__u32 is_interrupted;
	__s32 tid;
	__s32 tgid;
	__u32 padding;
	char comm[TRACE_COMM_BYTES];
};

/* Element of `restarts`, likewise: from the interruption of a call to the end of its restart. */
struct trace_restarting {
	/* restart_syscall was told of. */
	__u32 is_entered;
};

/* What the iterator over tasks writes of each thread. */
struct trace_target {
	__s32 host_tid;
	__s32 host_tgid;
	__u32 reader_level;
};

/* Indices of `counts`. */
enum trace_count {
	TRACE_COUNT_LOST = 0,
	TRACE_COUNT_UNWATCHED = 1,
	TRACE_COUNTS = 2,
};

#endif

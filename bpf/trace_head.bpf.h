/* What every event begins with, and the options that the loader patches in as constants. */
#ifndef CKPT_TRACE_HEAD_BPF_H
#define CKPT_TRACE_HEAD_BPF_H

#include "read.h"
#include "trace.h"

/*
 * The compiler must not look into the marker that stands for an option; the verifier sees the
 * constant that replaced it, and removes the branches that it makes unreachable.
 */
static __always_inline __u64 opaque(__u64 value)
{
	asm volatile("" : "+r"(value));
	return value;
}

/* Bits 1 << enum trace_kind. */
static __always_inline int wants(__u32 kind)
{
	return opaque(SYMBOL(option_events)) >> kind & 1;
}

static __always_inline int wants_children(void)
{
	return opaque(SYMBOL(option_children)) != 0;
}

/* The pid namespace in which tasks are numbered. */
static __always_inline __u32 pid_level(void)
{
	return opaque(SYMBOL(option_pid_level));
}

/* arch/x86/include/asm/thread_info.h */
#define TS_COMPAT 0x2

static __always_inline int number_of(void *task)
{
	if (!pid_level())
		return READ(task_struct, task, pid);
	return pid_number((void *)READ(task_struct, task, thread_pid), pid_level());
}

static __always_inline int group_number_of(void *task)
{
	if (!pid_level())
		return READ(task_struct, task, tgid);
	return number_of((void *)READ(task_struct, task, group_leader));
}

/*
 * The number of a thread that executes a program, from before it became the leader, when it gave up
 * its own. In a pid namespace below the first one nobody remembers that: 0.
 */
static __always_inline int old_number(void *task, int old_host_tid, int tid)
{
	if (old_host_tid == (int)READ(task_struct, task, pid))
		return tid;
	return pid_level() ? 0 : old_host_tid;
}

static __always_inline void begin(struct trace_head *head, __u32 kind, void *task)
{
	head->kind = kind;
	head->tid = number_of(task);
	head->tgid = group_number_of(task);
	head->time_ns = bpf_ktime_get_ns();
	COPY(task_struct, task, comm, head->comm);
}

static __always_inline int is_compat(void *task)
{
	return !!(READ(task_struct, task, thread_info.status) & TS_COMPAT);
}

static __always_inline void read_call(struct trace_call *call, void *regs, void *task)
{
	call->nr = READ(pt_regs, regs, orig_ax);
	call->is_compat = is_compat(task);
	if (call->is_compat) {
		call->args[0] = (__u32)READ(pt_regs, regs, bx);
		call->args[1] = (__u32)READ(pt_regs, regs, cx);
		call->args[2] = (__u32)READ(pt_regs, regs, dx);
		call->args[3] = (__u32)READ(pt_regs, regs, si);
		call->args[4] = (__u32)READ(pt_regs, regs, di);
		call->args[5] = (__u32)READ(pt_regs, regs, bp);
		return;
	}
	call->args[0] = READ(pt_regs, regs, di);
	call->args[1] = READ(pt_regs, regs, si);
	call->args[2] = READ(pt_regs, regs, dx);
	call->args[3] = READ(pt_regs, regs, r10);
	call->args[4] = READ(pt_regs, regs, r8);
	call->args[5] = READ(pt_regs, regs, r9);
}

#endif

/*
 * Raw tracepoints on fork, exec, exit and the restart paths, of the processes in `watched` and of
 * those that they fork meanwhile. An event that does not fit into the ring is counted in `lost`.
 */
#include "read.h"
#include "events.h"
#include "restart.bpf.h"

/* include/linux/errno.h */
#define ERESTART_RESTARTBLOCK 516
/* arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl */
#define NR_RESTART_SYSCALL_64 219
#define NR_RESTART_SYSCALL_32 0
/* arch/x86/include/asm/thread_info.h */
#define TS_COMPAT 0x2

BPF_HASH(watched, __u32, __u32, EVENTS_MAX_WATCHED);
BPF_ARRAY(lost, __u64, 1);
BPF_RINGBUF_OUTPUT(ring, EVENTS_RING_PAGES);

static __always_inline void count_lost(void)
{
	int zero = 0;
	__u64 *count = lost.lookup(&zero);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void emit(struct events_record *e)
{
	if (ring.ringbuf_output(e, sizeof(*e), 0))
		count_lost();
}

static __always_inline int task_number(void *task, __u32 pid_level)
{
	void *pid = (void *)READ(task_struct, task, thread_pid);

	return pid_number(pid, pid_level);
}

static __always_inline int group_number(void *task, __u32 pid_level)
{
	void *leader = (void *)READ(task_struct, task, group_leader);

	return task_number(leader, pid_level);
}

/* Fills in who, and returns the level to number others in; NULL for a task that is not watched. */
static __always_inline __u32 *begin(struct events_record *e, __u32 kind, void *task)
{
	__u32 tgid = READ(task_struct, task, tgid);
	__u32 *pid_level = watched.lookup(&tgid);

	if (!pid_level)
		return NULL;
	e->kind = kind;
	e->tid = task_number(task, *pid_level);
	e->tgid = group_number(task, *pid_level);
	e->time_ns = bpf_ktime_get_ns();
	return pid_level;
}

RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	void *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	struct events_record e = {};
	__u32 *pid_level = begin(&e, EVENTS_FORK, parent);
	__u32 tgid, level;

	if (!pid_level)
		return 0;
	level = *pid_level;
	e.other_tid = task_number(child, level);
	e.other_tgid = group_number(child, level);
	tgid = READ(task_struct, child, tgid);
	if (e.other_tgid != e.tgid && watched.update(&tgid, &level))
		count_lost();
	emit(&e);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	struct events_record e = {};

	if (begin(&e, EVENTS_EXEC, (void *)ctx->args[0]))
		emit(&e);
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	struct events_record e = {};

	if (begin(&e, EVENTS_EXIT, (void *)ctx->args[0]))
		emit(&e);
	return 0;
}

RAW_TRACEPOINT_PROBE(sys_exit)
{
	void *regs = (void *)ctx->args[0];
	void *task = (void *)bpf_get_current_task();
	struct events_record e = {};

	if ((long)ctx->args[1] != -ERESTART_RESTARTBLOCK ||
	    !begin(&e, EVENTS_RESTART_ARMED, task))
		return 0;
	e.syscall = READ(pt_regs, regs, orig_ax);
	read_restart(task, &e.restart);
	emit(&e);
	return 0;
}

RAW_TRACEPOINT_PROBE(sys_enter)
{
	void *task = (void *)bpf_get_current_task();
	struct events_record e = {};
	__u32 number = NR_RESTART_SYSCALL_64;

	if (ctx->args[1] != NR_RESTART_SYSCALL_64 && ctx->args[1] != NR_RESTART_SYSCALL_32)
		return 0;
	if (READ(task_struct, task, thread_info.status) & TS_COMPAT)
		number = NR_RESTART_SYSCALL_32;
	if (ctx->args[1] != number || !begin(&e, EVENTS_RESTART_SYSCALL, task))
		return 0;
	e.syscall = number;
	read_restart(task, &e.restart);
	emit(&e);
	return 0;
}

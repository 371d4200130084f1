/*
 * Where tasks stand: one task, or all of a process (limited by the link). Idempotent.
 *
 * The kernel's own unwinder walks the stacks; that of a task which runs meanwhile is left out, as
 * what could be read of it is no path that it took.
 */
#include "read.h"
#include "stack.h"

/* Larger than a BPF stack. One reader at a time uses it. */
BPF_ARRAY(scratch, struct stack_record, 1);

static __always_inline void read_clocks(void *task, __u64 *arrival, __u64 *run, __u64 *exec_start)
{
	if (PRESENT(task_struct, sched_info.last_arrival))
		*arrival = READ(task_struct, task, sched_info.last_arrival);
	*run = READ(task_struct, task, se.sum_exec_runtime) -
	       READ(task_struct, task, se.prev_sum_exec_runtime);
	*exec_start = READ(task_struct, task, se.exec_start);
}

/* include/linux/rwsem.h, kernel/locking/rwsem.c: count, and an owner with flags in its low bits. */
#define RWSEM_WRITER_LOCKED 1
#define RWSEM_OWNER_FLAGS 7ULL

static __always_inline void read_mmap_lock(void *mm, __u32 level, struct stack_record *e)
{
	void *owner, *pid;

	if (!mm || !PRESENT(mm_struct, mmap_lock.count))
		return;
	e->mmap_lock_count = READ_AS(mm_struct, mm, mmap_lock.count, __u64);
	if (!(e->mmap_lock_count & RWSEM_WRITER_LOCKED))
		return;
	owner = (void *)(READ_AS(mm_struct, mm, mmap_lock.owner, __u64) & ~RWSEM_OWNER_FLAGS);
	if (!owner)
		return;
	pid = (void *)READ(task_struct, owner, thread_pid);
	e->mmap_lock_owner = pid_number(pid, level);
}

BPF_ITER(task)
{
	struct task_struct *task = ctx->task;
	void *current = (void *)bpf_get_current_task();
	__u32 level = reader_pid_level();
	struct stack_record *e;
	int zero = 0;
	void *regs, *pid;
	long length;

	if (!task)
		return 0;
	e = scratch.lookup(&zero);
	if (!e)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	pid = (void *)READ(task_struct, task, thread_pid);
	e->tid = pid_number(pid, level);
	e->on_cpu = READ(task_struct, task, on_cpu);
	if (PRESENT(task_struct, thread_info.cpu))
		e->cpu = READ(task_struct, task, thread_info.cpu);
	e->state = READ(task_struct, task, __state);
	e->exit_state = READ(task_struct, task, exit_state);
	e->ti_status = READ(task_struct, task, thread_info.status);
	read_mmap_lock((void *)READ(task_struct, task, mm), level, e);
	e->observed_ns = bpf_ktime_get_ns();
	read_clocks(task, &e->last_arrival_ns, &e->last_run_ns, &e->exec_start_ns);
	read_clocks(current, &e->reader_arrival_ns, &e->reader_run_ns, &e->reader_exec_start_ns);
	regs = (void *)bpf_task_pt_regs(task);
	bpf_probe_read_kernel(e->user, sizeof(e->user), regs);
	if (!e->on_cpu) {
		length = bpf_get_task_stack(task, e->frames, sizeof(e->frames), 0);
		if (length > 0)
			e->frame_count = length / sizeof(__u64);
	}
	bpf_seq_write(ctx->meta->seq, e, sizeof(*e));
	return 0;
}

/*
 * Iterator over all tasks that the reader's pid namespace has: the surroundings of a process.
 * Idempotent. Tasks elsewhere are not in it.
 */
#include "read.h"
#include "peers.h"

static __always_inline __s32 task_number(void *task, __u32 level)
{
	void *pid = (void *)READ(task_struct, task, thread_pid);

	return pid_number(pid, level);
}

static __always_inline __s32 group_number(void *task, __u32 level)
{
	void *leader = (void *)READ(task_struct, task, group_leader);

	return task_number(leader, level);
}

static __always_inline void read_call(void *regs, struct peers_record *e)
{
	e->orig_ax = READ(pt_regs, regs, orig_ax);
	e->bx = READ(pt_regs, regs, bx);
	e->cx = READ(pt_regs, regs, cx);
	e->dx = READ(pt_regs, regs, dx);
	e->si = READ(pt_regs, regs, si);
	e->di = READ(pt_regs, regs, di);
	e->bp = READ(pt_regs, regs, bp);
	e->r10 = READ(pt_regs, regs, r10);
	e->r8 = READ(pt_regs, regs, r8);
	e->r9 = READ(pt_regs, regs, r9);
}

BPF_ITER(task)
{
	struct task_struct *task = ctx->task;
	__u32 level = reader_pid_level();
	struct peers_record e = {};
	void *other;

	if (!task)
		return 0;
	e.tid = task_number(task, level);
	e.tgid = group_number(task, level);
	other = (void *)READ(task_struct, task, real_parent);
	e.parent_tgid = group_number(other, level);
	if (READ(task_struct, task, ptrace)) {
		other = (void *)READ(task_struct, task, parent);
		e.tracer_tid = task_number(other, level);
	}
	e.state = READ(task_struct, task, __state);
	e.exit_state = READ(task_struct, task, exit_state);
	e.flags = READ(task_struct, task, flags);
	e.on_cpu = READ(task_struct, task, on_cpu);
	e.ti_status = READ(task_struct, task, thread_info.status);
	e.mm = READ(task_struct, task, mm);
	e.files = READ(task_struct, task, files);
	e.fs = READ(task_struct, task, fs);
	e.sighand = READ(task_struct, task, sighand);
	read_call((void *)bpf_task_pt_regs(task), &e);
	COPY(task_struct, task, comm, e.comm);
	bpf_seq_write(ctx->meta->seq, &e, sizeof(e));
	return 0;
}

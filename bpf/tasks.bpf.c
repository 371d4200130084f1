/*
 * Iterator over the tasks of one process (limited by the link), and what they share.
 *
 * Idempotent, as iterators must be: the kernel runs it again for a task whose records did not fit.
 * Every access goes through READ and its siblings (read.h).
 */
#include "tasks_walk.bpf.h"
#include "tasks_thread.bpf.h"
#include "tasks_blocked.bpf.h"
#include "tasks_process.bpf.h"
#include "tasks_mm.bpf.h"

BPF_ITER(task)
{
	struct task_struct *task = ctx->task;
	union any_record *record;
	struct scratch *buffer;
	struct walk w = {};
	int zero = 0;
	void *regs;

	if (!task)
		return 0;
	buffer = scratch.lookup(&zero);
	if (!buffer)
		return 0;
	record = &buffer->record;
	regs = (void *)bpf_task_pt_regs(task);
	w.seq = ctx->meta->seq;
	w.task = task;
	w.copy = &buffer->task;
	bpf_probe_read_kernel(w.copy, sizeof(buffer->task), task);
	w.leader = (void *)LOAD(task_struct, w.copy, group_leader);
	w.group_signal = (void *)LOAD(task_struct, w.copy, signal);
	w.pid_level = reader_pid_level();
	emit_core(&w, &record->core);
	emit_abi(&w, regs, &record->abi);
	emit_restart(&w, &record->restart);
	emit_blocked(&w, (__u64)regs, buffer);
	emit_namespaces(&w, &record->namespaces);
	if (w.task == w.leader)
		emit_shared(&w, record);
	emit_memory(&w, record);
	return 0;
}

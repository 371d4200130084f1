/* Kernel stack of one task (limited by the link), as the kernel's own unwinder sees it. */
#include "read.h"
#include "stack.h"

BPF_ITER(task)
{
	struct task_struct *task = ctx->task;
	__u64 frames[STACK_MAX_FRAMES] = {};
	long length;

	if (!task)
		return 0;
	length = bpf_get_task_stack(task, frames, sizeof(frames), 0);
	if (length > 0)
		bpf_seq_write(ctx->meta->seq, frames, sizeof(frames));
	return 0;
}

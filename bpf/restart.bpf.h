/* Reads task->restart_block; to be included by programs. */
#ifndef CKPT_RESTART_BPF_H
#define CKPT_RESTART_BPF_H

#include "read.h"
#include "restart.h"

/* Returns 0 when nothing is armed; fills a zeroed `to` otherwise. */
static __always_inline int read_restart(void *task, struct restart *to)
{
	to->fn = READ(task_struct, task, restart_block.fn);
	if (!to->fn || to->fn == SYMBOL(do_no_restart_syscall))
		return 0;
	to->nanosleep_clockid = READ(task_struct, task, restart_block.nanosleep.clockid);
	to->nanosleep_type = READ(task_struct, task, restart_block.nanosleep.type);
	to->nanosleep_rmtp = READ(task_struct, task, restart_block.nanosleep.rmtp);
	to->nanosleep_expires_ns = READ(task_struct, task, restart_block.nanosleep.expires);
	to->futex_uaddr = READ(task_struct, task, restart_block.futex.uaddr);
	to->futex_uaddr2 = READ(task_struct, task, restart_block.futex.uaddr2);
	to->futex_time_ns = READ(task_struct, task, restart_block.futex.time);
	to->futex_val = READ(task_struct, task, restart_block.futex.val);
	to->futex_flags = READ(task_struct, task, restart_block.futex.flags);
	to->futex_bitset = READ(task_struct, task, restart_block.futex.bitset);
	to->poll_ufds = READ(task_struct, task, restart_block.poll.ufds);
	to->poll_nfds = READ(task_struct, task, restart_block.poll.nfds);
	to->poll_has_timeout = READ(task_struct, task, restart_block.poll.has_timeout);
	if (PRESENT(task_struct___poll_end_time, restart_block.poll.end_time.tv_sec)) {
		to->poll_end_s = READ(task_struct___poll_end_time, task,
				      restart_block.poll.end_time.tv_sec);
		to->poll_end_ns = READ(task_struct___poll_end_time, task,
				       restart_block.poll.end_time.tv_nsec);
	} else {
		to->poll_end_s = READ(task_struct, task, restart_block.poll.tv_sec);
		to->poll_end_ns = READ(task_struct, task, restart_block.poll.tv_nsec);
	}
	return 1;
}

#endif

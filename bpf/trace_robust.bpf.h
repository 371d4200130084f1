/* The futexes that a thread leaves to its heirs when it ends. */
#ifndef CKPT_TRACE_ROBUST_BPF_H
#define CKPT_TRACE_ROBUST_BPF_H

#include "read.h"
#include "trace.h"
#include "trace_head.bpf.h"

/* include/uapi/linux/futex.h */
#define FUTEX_TID_MASK 0x3fffffff

struct robust_head {
	__u64 next;
	__u64 offset;
	__u64 pending;
};

/*
 * handle_futex_death() of kernel/futex/core.c (6.18) marks only what this thread owns. Returns a
 * negative number when the futex could not be read, 1 when the event was lost; it must be small,
 * as the verifier walks through every turn of the loop around it.
 */
static __always_inline int visit_robust(struct trace_robust *e, __u64 entry, __u64 offset, __u32 tid)
{
	e->futex = (entry & ~1ULL) + offset;
	e->is_pi = entry & 1;
	if (bpf_probe_read_user(&e->word, sizeof(e->word), (void *)e->futex))
		return -1;
	if ((e->word & FUTEX_TID_MASK) != tid)
		return 0;
	return !!put(e, sizeof(*e));
}

static __always_inline void robust_cut_short(struct trace_robust *e, __u64 address, __u32 status)
{
	e->futex = address;
	e->status = status;
	emit(e, sizeof(*e));
}

/* exit_robust_list(), likewise; memory that is not there at the moment is reported, not awaited. */
static __always_inline void walk_robust(void *task)
{
	__u64 list = READ(task_struct, task, robust_list), entry, next;
	void *pid = (void *)READ(task_struct, task, thread_pid);
	__u32 tid = pid_number(pid, READ(pid, pid, level));
	int i, visited = 0, failed = 0, lost = 0;
	struct robust_head head = {};
	struct trace_robust e = {};

	if (!list)
		return;
	begin(&e.head, TRACE_ROBUST, task);
	if (!READ(task_struct, task, mm)) {
		robust_cut_short(&e, list, TRACE_ROBUST_NO_MEMORY);
		return;
	}
	if (bpf_probe_read_user(&head, sizeof(head), (void *)list)) {
		robust_cut_short(&e, list, TRACE_ROBUST_UNREADABLE);
		return;
	}
	entry = head.next;
	for (i = 0; i < TRACE_MAX_ROBUST && (entry & ~1ULL) != list; i++) {
		failed = !!bpf_probe_read_user(&next, sizeof(next), (void *)(entry & ~1ULL));
		if ((entry & ~1ULL) != (head.pending & ~1ULL)) {
			visited = visit_robust(&e, entry, head.offset, tid);
			if (visited < 0)
				break;
			lost |= visited;
		}
		if (failed)
			break;
		entry = next;
	}
	if (lost)
		count(TRACE_COUNT_LOST);
	if (visited < 0 || failed) {
		robust_cut_short(&e, entry & ~1ULL, TRACE_ROBUST_UNREADABLE);
		return;
	}
	if ((entry & ~1ULL) != list)
		robust_cut_short(&e, entry & ~1ULL, TRACE_ROBUST_MORE);
	e.is_pending = 1;
	e.status = TRACE_ROBUST_DIES;
	if ((head.pending & ~1ULL) && visit_robust(&e, head.pending, head.offset, tid) > 0)
		count(TRACE_COUNT_LOST);
}

#endif

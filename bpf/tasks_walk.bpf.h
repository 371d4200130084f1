/*
 * What all parts of the iterator over tasks share: the buffer, the records, who is looked at.
 */
#ifndef CKPT_TASKS_WALK_H
#define CKPT_TASKS_WALK_H

#include "read.h"
#include "tasks.h"

union any_record {
	struct tasks_core core;
	struct tasks_abi abi;
	struct tasks_restart restart;
	struct tasks_blocked blocked;
	struct tasks_namespaces namespaces;
	struct tasks_process process;
	struct tasks_bytes bytes;
	struct tasks_mm mm;
};

struct scratch {
	struct task_struct task __attribute__((aligned(8)));
	__u64 first_block;
	__u64 last_block;
	__u64 hrtimer;
	__u64 hrtimer_place;
	__u64 jiffies_timer;
	__u64 jiffies_place;
	union any_record record;
	__u64 words[TASKS_STACK_BLOCK];
};

/* Too large for the 512 bytes of a BPF stack. One reader at a time uses it. */
BPF_ARRAY(scratch, struct scratch, 1);

struct walk {
	struct seq_file *seq;
	void *task;
	struct task_struct *copy;
	void *leader;
	void *group_signal;
	__u32 pid_level;
};

#define BEGIN(record, kind_value) \
	__builtin_memset(&(record), 0, sizeof(record)); \
	(record).kind = (kind_value); \
	(record).size = sizeof(record)
#define EMIT(walk, record) bpf_seq_write((walk)->seq, &(record), sizeof(record))

static __always_inline int task_number(struct walk *w, void *task)
{
	void *pid = (void *)READ(task_struct, task, thread_pid);

	return pid_number(pid, w->pid_level);
}

static __always_inline int group_number(struct walk *w, void *task)
{
	void *leader = (void *)READ(task_struct, task, group_leader);

	return task_number(w, leader);
}

/* `length` (a constant) bytes at `source`, of which `used` mean something. */
#define EMIT_BYTES(walk, kind_value, source, length, used_value, record) \
	do { \
		(record)->kind = (kind_value); \
		(record)->size = TASKS_BYTES_HEADER + (length); \
		(record)->used = (used_value); \
		bpf_probe_read_kernel((record)->bytes, length, source); \
		bpf_seq_write((walk)->seq, record, TASKS_BYTES_HEADER + (length)); \
	} while (0)

#endif

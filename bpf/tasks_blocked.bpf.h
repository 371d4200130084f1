/*
 * The part of the iterator over tasks that finds the timer which ends a blocked call.
 */
#ifndef CKPT_TASKS_BLOCKED_H
#define CKPT_TASKS_BLOCKED_H

#include "tasks_walk.bpf.h"

/* include/linux/sched.h: __TASK_STOPPED | __TASK_TRACED, whose stacks hold dead timers */
#define TASK_STOPPED_OR_TRACED 0xc
/* include/linux/hrtimer.h */
#define HRTIMER_STATE_ENQUEUED 0x1

/* All ones in the top bit when the words are equal; without a branch, see find_callbacks. */
static __always_inline __u64 equal_mask(__u64 a, __u64 b)
{
	__u64 difference = a ^ b;

	/* Or the compiler sees through it, and makes branches again. */
	asm volatile("" : "+r"(difference));
	return (difference - 1) & ~difference;
}

static __always_inline int is_my_hrtimer(struct walk *w, void *timer)
{
	return READ(hrtimer_sleeper, timer, task) == (__u64)w->task &&
	       READ(hrtimer, timer, state) & HRTIMER_STATE_ENQUEUED;
}

static __always_inline int is_my_jiffies_timer(struct walk *w, void *timer)
{
	return READ(process_timer, timer, task) == (__u64)w->task &&
	       READ(timer_list, timer, entry.pprev);
}

/* The block at `sp` holds a callback: is it that of a live timer? */
static __always_inline void check_block(struct walk *w, __u64 sp, struct scratch *buffer)
{
	void *hrtimer, *jiffies_timer;
	int j;

	if (bpf_probe_read_kernel(buffer->words, sizeof(buffer->words), (void *)sp))
		return;
	buffer->hrtimer_place = 0;
	buffer->jiffies_place = 0;
#pragma unroll
	for (j = 0; j < TASKS_STACK_BLOCK; j++) {
		if (buffer->words[j] == SYMBOL(hrtimer_wakeup))
			buffer->hrtimer_place = sp + j * 8;
		if (buffer->words[j] == SYMBOL(process_timeout))
			buffer->jiffies_place = sp + j * 8;
	}
	hrtimer = (void *)buffer->hrtimer_place - OFFSET(hrtimer, function);
	if (buffer->hrtimer_place && is_my_hrtimer(w, hrtimer))
		buffer->hrtimer = (__u64)hrtimer;
	jiffies_timer = (void *)buffer->jiffies_place - OFFSET(timer_list, function);
	if (buffer->jiffies_place && is_my_jiffies_timer(w, jiffies_timer))
		buffer->jiffies_timer = (__u64)jiffies_timer;
}

/*
 * Looks through the live frames between `sp` and `regs` for blocks of words with a callback, and
 * keeps the first and the last: beside the timer there may be what a dead one left behind.
 *
 * Written for the verifier, which walks every combination of branches that it can tell apart, and
 * would take a second to load this: hardly a branch depends on the words, and what was found lies
 * in the buffer, where the verifier does not follow values.
 */
static __always_inline void find_callbacks(__u64 sp, __u64 regs, struct scratch *buffer)
{
	__u64 found, word;
	int i, j;

	buffer->first_block = 0;
	for (i = 0; i < TASKS_STACK_WORDS / TASKS_STACK_BLOCK; i++) {
		if (sp >= regs || bpf_probe_read_kernel(buffer->words, sizeof(buffer->words),
							(void *)sp))
			return;
		found = 0;
#pragma unroll
		for (j = 0; j < TASKS_STACK_BLOCK; j++) {
			word = buffer->words[j];
			found |= equal_mask(word, SYMBOL(hrtimer_wakeup));
			found |= equal_mask(word, SYMBOL(process_timeout));
		}
		if ((__s64)found < 0) {
			if (!buffer->first_block)
				buffer->first_block = sp;
			buffer->last_block = sp;
		}
		sp += sizeof(buffer->words);
	}
}

static __always_inline void emit_hrtimer(struct walk *w, void *timer, struct tasks_blocked *e)
{
	void *base = (void *)READ(hrtimer, timer, base);

	BEGIN(*e, TASKS_BLOCKED);
	e->type = TASKS_BLOCKED_HRTIMER;
	e->clockid = READ(hrtimer_clock_base, base, clockid);
	e->expires = READ(hrtimer, timer, _softexpires);
	e->latest = READ(hrtimer, timer, node.expires);
	EMIT(w, *e);
}

static __always_inline void emit_jiffies_timer(struct walk *w, void *timer,
					       struct tasks_blocked *e)
{
	BEGIN(*e, TASKS_BLOCKED);
	e->type = TASKS_BLOCKED_JIFFIES;
	e->expires = READ(timer_list, timer, expires);
	e->latest = e->expires;
	e->jiffies = bpf_jiffies64();
	EMIT(w, *e);
}

/* Only of a task that sleeps: the stack of a running one changes, that of a traced one is stale. */
static __always_inline void emit_blocked(struct walk *w, __u64 regs, struct scratch *buffer)
{
	struct task_struct *copy = w->copy;
	__u32 state = LOAD(task_struct, copy, __state);
	__u64 sp = LOAD(task_struct, copy, thread.sp);

	if (!state || state & TASK_STOPPED_OR_TRACED || LOAD(task_struct, copy, on_cpu))
		return;
	find_callbacks(sp, regs, buffer);
	if (!buffer->first_block)
		return;
	buffer->hrtimer = 0;
	buffer->jiffies_timer = 0;
	check_block(w, buffer->first_block, buffer);
	if (buffer->last_block != buffer->first_block)
		check_block(w, buffer->last_block, buffer);
	if (buffer->hrtimer)
		emit_hrtimer(w, (void *)buffer->hrtimer, &buffer->record.blocked);
	if (buffer->jiffies_timer)
		emit_jiffies_timer(w, (void *)buffer->jiffies_timer, &buffer->record.blocked);
}

#endif

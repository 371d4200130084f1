/*
 * The part of the iterator over tasks that reads what a process shares: signal_struct, sighand.
 */
#ifndef CKPT_TASKS_PROCESS_H
#define CKPT_TASKS_PROCESS_H

#include "tasks_walk.bpf.h"

/* include/linux/pid_types.h */
#define PIDTYPE_PGID 2
#define PIDTYPE_SID 3

static __always_inline void read_tty(void *signal, struct tasks_process *e)
{
	void *tty = (void *)READ(signal_struct, signal, tty);
	void *driver;

	e->tty = (__u64)tty;
	if (!tty)
		return;
	driver = (void *)READ(tty_struct, tty, driver);
	e->tty_index = READ(tty_struct, tty, index);
	e->tty_major = READ(tty_driver, driver, major);
	e->tty_minor_start = READ(tty_driver, driver, minor_start);
}

static __always_inline void read_itimers(void *signal, struct tasks_process *e)
{
	e->real_state = READ(signal_struct, signal, real_timer.state);
	e->real_expires_ns = READ(signal_struct, signal, real_timer._softexpires);
	e->real_incr_ns = READ(signal_struct, signal, it_real_incr);
	/* struct cpu_itimer it[2]: CPUCLOCK_PROF, CPUCLOCK_VIRT; each expires, incr */
	e->prof_expires_ns = READ_AT(__u64, ADDRESS(signal_struct, signal, it));
	e->prof_incr_ns = READ_AT(__u64, ADDRESS(signal_struct, signal, it) + 8);
	e->virt_expires_ns = READ_AT(__u64, ADDRESS(signal_struct, signal, it) + 16);
	e->virt_incr_ns = READ_AT(__u64, ADDRESS(signal_struct, signal, it) + 24);
	e->group_utime_ns = READ_AS(signal_struct, signal, cputimer.cputime_atomic.utime, __u64);
	e->group_stime_ns = READ_AS(signal_struct, signal, cputimer.cputime_atomic.stime, __u64);
	e->group_runtime_ns =
		READ_AS(signal_struct, signal, cputimer.cputime_atomic.sum_exec_runtime, __u64);
}

static __always_inline void emit_process(struct walk *w, struct tasks_process *e)
{
	void *task = w->task;
	void *signal = w->group_signal;
	void *sighand = (void *)READ(task_struct, task, sighand);
	void *pid;

	BEGIN(*e, TASKS_PROCESS);
	e->leader_tid = task_number(w, task);
	e->nr_threads = READ(signal_struct, signal, nr_threads);
	e->live = READ_AS(signal_struct, signal, live, __s32);
	e->signal_refs = READ_AS(signal_struct, signal, sigcnt, __u32);
	e->sighand_count = READ_AS(sighand_struct, sighand, count, __u32);
	if (READ_BITS(signal_struct, signal, is_child_subreaper))
		e->bits |= TASKS_IS_CHILD_SUBREAPER;
	if (READ_BITS(signal_struct, signal, has_child_subreaper))
		e->bits |= TASKS_HAS_CHILD_SUBREAPER;
	if (READ_BITS(signal_struct, signal, timer_create_restore_ids))
		e->bits |= TASKS_RESTORE_TIMER_IDS;
	e->flags = READ(signal_struct, signal, flags);
	e->group_stop_count = READ(signal_struct, signal, group_stop_count);
	e->group_exit_code = READ(signal_struct, signal, group_exit_code);
	pid = (void *)READ_AT(__u64, ADDRESS(signal_struct, signal, pids) + 8 * PIDTYPE_PGID);
	e->pgrp = pid_number(pid, w->pid_level);
	pid = (void *)READ_AT(__u64, ADDRESS(signal_struct, signal, pids) + 8 * PIDTYPE_SID);
	e->session = pid_number(pid, w->pid_level);
	e->is_session_leader = READ(signal_struct, signal, leader);
	e->oom_score_adj = READ(signal_struct, signal, oom_score_adj);
	e->oom_score_adj_min = READ(signal_struct, signal, oom_score_adj_min);
	e->next_posix_timer_id = READ_AS(signal_struct, signal, next_posix_timer_id, __s32);
	e->has_posix_timers = READ(signal_struct, signal, posix_timers.first) != 0;
	e->host_tgid = READ(task_struct, task, tgid);
	e->pid_level = w->pid_level;
	e->shared_pending = READ_AS(signal_struct, signal, shared_pending.signal, __u64);
	read_tty(signal, e);
	read_itimers(signal, e);
	EMIT(w, *e);
}

/* The leader speaks for the process, also when it has exited and waits for the other threads. */
static __always_inline void emit_shared(struct walk *w, union any_record *record)
{
	void *task = w->task;
	void *signal = w->group_signal;
	void *sighand = (void *)READ(task_struct, task, sighand);

	emit_process(w, &record->process);
	EMIT_BYTES(w, TASKS_RLIMITS, ADDRESS(signal_struct, signal, rlim), 256, 256,
		   &record->bytes);
	if (sighand)
		EMIT_BYTES(w, TASKS_SIGACTIONS, ADDRESS(sighand_struct, sighand, action), 2048,
			   2048, &record->bytes);
}

#endif

/*
 * POSIX timers of one process (limited by the link to its leader), TIMERS_A_PASS a pass: those after
 * the list node in `after`, from the beginning when that is zero. The process has to be stopped when
 * there is more than one pass. Idempotent.
 */
#include "read.h"
#include "timers.h"

BPF_ARRAY(after, __u64, 1);

static __always_inline void emit_timer(struct seq_file *seq, __u64 node, __u32 pid_level)
{
	void *timer = (void *)node - OFFSET(k_itimer, list);
	void *pid = (void *)READ(k_itimer, timer, it_pid);
	struct timers_record e = {};

	e.node = node;
	e.id = READ(k_itimer, timer, it_id);
	e.clockid = READ(k_itimer, timer, it_clock);
	e.notify = READ(k_itimer, timer, it_sigev_notify);
	e.signo = READ(k_itimer, timer, sigq.info.si_signo);
	e.sigval = READ_AS(k_itimer, timer, sigq.info._sifields._timer._sigval, __u64);
	e.notify_tid = pid_number(pid, pid_level);
	e.status = READ(k_itimer, timer, it_status);
	e.signal_queued = READ(k_itimer, timer, sigq.list.next) !=
			  (__u64)ADDRESS(k_itimer, timer, sigq.list);
	e.enqueued = READ(k_itimer, timer, it.real.timer.state);
	e.real_expires_ns = READ(k_itimer, timer, it.real.timer._softexpires);
	e.cpu_expires_ns = READ(k_itimer, timer, it.cpu.node.expires);
	e.alarm_expires_ns = READ(k_itimer, timer, it.alarm.alarmtimer.node.expires);
	e.interval_ns = READ(k_itimer, timer, it_interval);
	e.overrun = READ(k_itimer, timer, it_overrun);
	e.overrun_last = READ(k_itimer, timer, it_overrun_last);
	bpf_seq_write(seq, &e, sizeof(e));
}

BPF_ITER(task)
{
	struct task_struct *task = ctx->task;
	struct seq_file *seq = ctx->meta->seq;
	__u32 pid_level = reader_pid_level();
	int i, zero = 0;
	void *signal;
	__u64 *start, node;

	if (!task)
		return 0;
	start = after.lookup(&zero);
	if (!start)
		return 0;
	signal = (void *)READ(task_struct, task, signal);
	node = *start;
	if (node)
		node = READ_AT(__u64, node);
	else
		node = READ(signal_struct, signal, posix_timers.first);
	for (i = 0; i < TIMERS_A_PASS && node; i++) {
		emit_timer(seq, node, pid_level);
		node = READ_AT(__u64, node);
	}
	return 0;
}

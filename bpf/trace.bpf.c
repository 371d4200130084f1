/*
 * Raw tracepoints for `ckpt-bpf trace`. Everything is filtered here: by process, by kind of event
 * (the loader attaches only what the wanted events need) and by length of a wait. The cheapest
 * question comes first: sys_exit runs for every system call of the machine. An event that does not
 * fit into the ring is counted. The reader looks into the ring at its own pace; waking it for every
 * event would cost the traced process more than the event.
 */
#include "read.h"
#include "trace.h"
#include "trace_head.bpf.h"
#include "trace_rules.bpf.h"
#include "restart.bpf.h"

/* include/linux/errno.h, include/uapi/asm-generic/errno-base.h */
#define EINTR 4
/* include/uapi/linux/bpf.h */
#define BPF_RB_NO_WAKEUP 1
/* include/uapi/asm-generic/signal.h, siginfo.h; arch/x86/include/uapi/asm/signal.h */
#define SIGKILL 9
#define SIGRTMIN 32
#define SA_ONSTACK 0x08000000
/* enum in include/trace/events/signal.h */
#define TRACE_SIGNAL_DELIVERED 0

struct sender_key {
	__u32 to;
	__u32 is_process;
	__s32 signo;
	__s32 info_pid;
};

struct sender {
	__u64 sent_ns;
	__s32 tid;
	__s32 tgid;
	__s32 code;
	__u32 padding;
	char comm[TRACE_COMM_BYTES];
};

BPF_HASH(watched, __u32, __u32, TRACE_MAX_WATCHED);
BPF_HASH(senders, struct sender_key, struct sender, TRACE_MAX_SENDERS);
BPF_HASH(waits, __u32, struct trace_wait, TRACE_MAX_WAITS);
BPF_HASH(restarts, __u32, struct trace_restarting, TRACE_MAX_RESTARTS);
BPF_ARRAY(restarting, __u64, 1);
BPF_ARRAY(counts, __u64, TRACE_COUNTS);
BPF_RINGBUF_OUTPUT(ring, TRACE_RING_PAGES);

static __always_inline void count(int index)
{
	__u64 *value = counts.lookup(&index);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline int put(void *event, __u64 bytes)
{
	return ring.ringbuf_output(event, bytes, BPF_RB_NO_WAKEUP);
}

static __always_inline void emit(void *event, __u64 bytes)
{
	if (put(event, bytes))
		count(TRACE_COUNT_LOST);
}

/* Uses count(), put() and emit(): BCC knows maps in this file only. */
#include "trace_robust.bpf.h"

static __always_inline int wants_restarts(void)
{
	return wants(TRACE_RESTART_ENTERED) || wants(TRACE_RESTART_RESULT);
}

/*
 * Is any watched thread between the interruption of a call and the end of its restart? Almost
 * always none is, and to know it costs less than to read which call it is that ends (a lookup in an
 * array is no call).
 */
static __always_inline int has_restarts(void)
{
	int index = 0;
	__u64 *value = restarting.lookup(&index);

	return value && *value;
}

static __always_inline void count_restarts(long change)
{
	int index = 0;
	__u64 *value = restarting.lookup(&index);

	if (value)
		__sync_fetch_and_add(value, change);
}

static __always_inline void restart_begins(__u32 tid)
{
	struct trace_restarting fresh = {}, *known = restarts.lookup(&tid);

	if (known) {
		known->is_entered = 0;
		return;
	}
	if (restarts.update(&tid, &fresh))
		count(TRACE_COUNT_LOST);
	else
		count_restarts(1);
}

static __always_inline void restart_ends(__u32 tid)
{
	if (!restarts.lookup(&tid))
		return;
	restarts.delete(&tid);
	count_restarts(-1);
}

static __always_inline int is_watched(__u32 tgid)
{
	if (!wants_children())
		return tgid == opaque(SYMBOL(option_tgid));
	return watched.lookup(&tgid) != NULL;
}

static __always_inline int is_current_watched(void)
{
	return is_watched(bpf_get_current_pid_tgid() >> 32);
}

/* Who is the process, and how do we count? For the loader. */
BPF_ITER(task)
{
	struct task_struct *task = ctx->task;
	struct trace_target target = {};

	if (!task)
		return 0;
	target.host_tid = READ(task_struct, task, pid);
	target.host_tgid = READ(task_struct, task, tgid);
	target.reader_level = reader_pid_level();
	bpf_seq_write(ctx->meta->seq, &target, sizeof(target));
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_fork)
{
	void *parent = (void *)ctx->args[0], *child = (void *)ctx->args[1];
	__u32 tgid = READ(task_struct, parent, tgid), child_tgid, one = 1;
	struct trace_fork e = {};

	if (!is_watched(tgid))
		return 0;
	child_tgid = READ(task_struct, child, tgid);
	if (wants_children() && child_tgid != tgid && watched.update(&child_tgid, &one))
		count(TRACE_COUNT_UNWATCHED);
	if (!wants(TRACE_FORK))
		return 0;
	begin(&e.head, TRACE_FORK, parent);
	e.child_tid = number_of(child);
	e.child_tgid = group_number_of(child);
	emit(&e, sizeof(e));
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exec)
{
	void *task = (void *)ctx->args[0], *bprm = (void *)ctx->args[2];
	struct trace_exec e = {};

	if (!is_current_watched())
		return 0;
	begin(&e.head, TRACE_EXEC, task);
	e.old_tid = old_number(task, ctx->args[1], e.head.tid);
	bpf_probe_read_kernel_str(e.path, sizeof(e.path), (void *)READ(linux_binprm, bprm, filename));
	emit(&e, sizeof(e));
	return 0;
}

RAW_TRACEPOINT_PROBE(sched_process_exit)
{
	void *task = (void *)ctx->args[0];
	void *signal = (void *)READ(task_struct, task, signal);
	__u64 ids = bpf_get_current_pid_tgid();
	__u32 tgid = ids >> 32, tid = ids;
	struct trace_exit e = {};

	if (!is_watched(tgid))
		return 0;
	if (wants(TRACE_ROBUST))
		walk_robust(task);
	if (wants(TRACE_FUTEX))
		waits.delete(&tid);
	if (wants_restarts() && has_restarts())
		restart_ends(tid);
	/* do_exit() has counted this thread out before. */
	e.is_last = !READ_AS(signal_struct, signal, live, __u32);
	if (wants(TRACE_EXIT)) {
		begin(&e.head, TRACE_EXIT, task);
		e.exit_code = READ(task_struct, task, exit_code);
		emit(&e, sizeof(e));
	}
	if (wants_children() && e.is_last)
		watched.delete(&tgid);
	return 0;
}

static __always_inline void restart_result(void *regs, void *task, long result)
{
	struct trace_call e = {};

	begin(&e.head, TRACE_RESTART_RESULT, task);
	e.nr = READ(pt_regs, regs, orig_ax);
	e.is_compat = is_compat(task);
	e.result = result;
	emit(&e, sizeof(e));
}

static __always_inline void futex_begins(void *task, void *regs, __u64 nr)
{
	__u64 futex = READ(pt_regs, regs, di);
	__u32 tid = bpf_get_current_pid_tgid(), op;
	struct trace_wait *known = waits.lookup(&tid);
	struct trace_wait wait = {};

	if (!is_futex_wait(nr, regs, &op))
		return;
	if (known) {
		/* After a signal without a handler the kernel makes the call once more. */
		if (known->is_interrupted && known->began_ns && known->futex == futex)
			return;
		known->futex = futex;
		known->op = op;
		known->was_before = 0;
		known->is_interrupted = 0;
		known->began_ns = bpf_ktime_get_ns();
		return;
	}
	wait.futex = futex;
	wait.op = op;
	wait.tid = number_of(task);
	wait.tgid = group_number_of(task);
	COPY(task_struct, task, comm, wait.comm);
	wait.began_ns = bpf_ktime_get_ns();
	if (waits.update(&tid, &wait))
		count(TRACE_COUNT_LOST);
}

static __always_inline void futex_ends(void *task, long result)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct trace_wait *wait = waits.lookup(&tid);
	struct trace_futex e = {};

	if (!wait || !wait->began_ns)
		return;
	if (result == -ERESTARTSYS || result == -ERESTART_RESTARTBLOCK) {
		wait->is_interrupted = 1;
		return;
	}
	e.began_ns = wait->began_ns;
	wait->began_ns = 0;
	if (bpf_ktime_get_ns() - e.began_ns < opaque(SYMBOL(option_slow_ns)))
		return;
	begin(&e.head, TRACE_FUTEX, task);
	e.futex = wait->futex;
	e.op = wait->op;
	e.was_before = wait->was_before;
	e.result = result;
	emit(&e, sizeof(e));
}

static __always_inline void call_interrupted(void *regs, void *task, long result)
{
	struct trace_restart e = {};

	begin(&e.call.head, TRACE_RESTART_ARMED, task);
	read_call(&e.call, regs, task);
	e.call.result = result;
	read_restart(task, &e.restart);
	emit(&e, sizeof(e));
}

static __always_inline void call_broken_off(void *regs, void *task, long result, int signo)
{
	struct trace_call e = {};

	begin(&e.head, TRACE_EINTR, task);
	read_call(&e, regs, task);
	e.result = result;
	e.signo = signo;
	emit(&e, sizeof(e));
}

/*
 * Told when a call that is made once more sets its timer, or else (it has no limit) when it ends.
 * On every entry to a system call it would cost about half as much again as sys_exit does.
 */
static __always_inline void restart_entered(void *task, __u64 nr, __u32 tid)
{
	struct trace_restarting *known = restarts.lookup(&tid);
	struct trace_restart e = {};

	if (!known || known->is_entered)
		return;
	known->is_entered = 1;
	begin(&e.call.head, TRACE_RESTART_ENTERED, task);
	e.call.nr = nr;
	e.call.is_compat = nr == NR_RESTART_SYSCALL_32;
	read_restart(task, &e.restart);
	emit(&e, sizeof(e));
}

RAW_TRACEPOINT_PROBE(hrtimer_start)
{
	void *task, *regs;
	__u32 tid;
	__u64 nr;

	if (!has_restarts())
		return 0;
	tid = bpf_get_current_pid_tgid();
	if (!restarts.lookup(&tid))
		return 0;
	task = (void *)bpf_get_current_task();
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	nr = call_number(regs, task);
	if (is_restart_syscall(nr))
		restart_entered(task, nr, tid);
	return 0;
}

static __always_inline void restart_left(void *regs, void *task, __u64 nr, long result)
{
	__u32 tid = bpf_get_current_pid_tgid();

	restart_entered(task, nr, tid);
	restart_result(regs, task, result);
	if (result != -ERESTART_RESTARTBLOCK)
		restart_ends(tid);
}

RAW_TRACEPOINT_PROBE(sys_exit)
{
	void *regs = (void *)ctx->args[0], *task;
	long result = ctx->args[1];
	int is_eintr = wants(TRACE_EINTR) && result == -EINTR;
	int is_armed = (wants(TRACE_RESTART_ARMED) || wants_restarts()) &&
		       result == -ERESTART_RESTARTBLOCK;
	__u64 nr;

	if (!is_eintr && !is_armed) {
		if (!wants(TRACE_FUTEX) && !(wants_restarts() && has_restarts()))
			return 0;
		nr = READ(pt_regs, regs, orig_ax);
		if (!is_restart_syscall(nr) && !(wants(TRACE_FUTEX) && is_futex_call(nr)))
			return 0;
	}
	if (!is_current_watched())
		return 0;
	task = (void *)bpf_get_current_task();
	nr = call_number(regs, task);
	if (is_armed && wants(TRACE_RESTART_ARMED))
		call_interrupted(regs, task, result);
	/* rt_sigreturn "returns" what the interrupted call did, and leaves no number. */
	if (is_eintr && (long)READ(pt_regs, regs, orig_ax) >= 0)
		call_broken_off(regs, task, result, 0);
	if (wants_restarts() && is_restart_syscall(nr))
		restart_left(regs, task, nr, result);
	if (wants_restarts() && is_armed)
		restart_begins(bpf_get_current_pid_tgid());
	if (wants(TRACE_FUTEX) && (is_futex_call(nr) || is_restart_syscall(nr)))
		futex_ends(task, result);
	return 0;
}

RAW_TRACEPOINT_PROBE(sys_enter)
{
	void *regs = (void *)ctx->args[0], *task;
	__u64 nr = ctx->args[1];

	if (!is_futex_call(nr) || !is_current_watched())
		return 0;
	task = (void *)bpf_get_current_task();
	if (!is_compat(task))
		futex_begins(task, regs, nr);
	return 0;
}

RAW_TRACEPOINT_PROBE(signal_generate)
{
	void *info = (void *)ctx->args[1], *to = (void *)ctx->args[2], *task;
	__u32 tgid = READ(task_struct, to, tgid);
	struct sender_key key = {};
	struct sender from = {};

	if (ctx->args[4] != TRACE_SIGNAL_DELIVERED || !is_watched(tgid))
		return 0;
	key.is_process = !!ctx->args[3];
	key.to = key.is_process ? tgid : READ(task_struct, to, pid);
	key.signo = ctx->args[0];
	/* Of a standard signal there is one at a time; of others there may be many. */
	if (key.signo >= SIGRTMIN)
		key.info_pid = signal_pid(info);
	task = (void *)bpf_get_current_task();
	from.sent_ns = bpf_ktime_get_ns();
	from.tid = number_of(task);
	from.tgid = group_number_of(task);
	from.code = signal_code(info);
	COPY(task_struct, task, comm, from.comm);
	if (senders.update(&key, &from))
		count(TRACE_COUNT_LOST);
	return 0;
}

static __always_inline int take_sender(struct trace_signal *e, struct sender_key *key)
{
	struct sender *from = senders.lookup(key);

	if (!from)
		return 0;
	e->bits |= TRACE_SENDER_SEEN;
	e->code = from->code;
	e->sent_ns = from->sent_ns;
	e->sender_tid = from->tid;
	e->sender_tgid = from->tgid;
	__builtin_memcpy(e->sender_comm, from->comm, sizeof(from->comm));
	senders.delete(key);
	return 1;
}

static __always_inline void find_sender(struct trace_signal *e, __u32 tid, __u32 tgid)
{
	struct sender_key key = { .to = tid, .signo = e->signo };

	if (e->signo >= SIGRTMIN)
		key.info_pid = e->info_pid;
	if (take_sender(e, &key))
		return;
	key.to = tgid;
	key.is_process = 1;
	if (take_sender(e, &key))
		e->bits |= TRACE_TO_PROCESS;
}

RAW_TRACEPOINT_PROBE(signal_deliver)
{
	void *info = (void *)ctx->args[1], *ka = (void *)ctx->args[2];
	__u64 ids = bpf_get_current_pid_tgid();
	void *task, *regs;
	struct trace_signal e = {};
	__u32 ss_flags;
	long result;
	int fatal = 0;

	if (!is_watched(ids >> 32))
		return 0;
	task = (void *)bpf_get_current_task();
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	e.signo = ctx->args[0];
	e.code = signal_code(info);
	e.info_pid = signal_pid(info);
	e.handler = READ(k_sigaction, ka, sa.sa_handler);
	e.sa_flags = READ(k_sigaction, ka, sa.sa_flags);
	if (e.signo == SIGKILL && (__u64)info <= 1) {
		fatal = fatal_signal(task);
		if (!fatal)
			return 0;
		e.signo = fatal;
		e.bits = TRACE_FATAL;
	}
	if ((__u64)info > 1)
		e.fault_address = READ(kernel_siginfo, info, _sifields._sigfault._addr);
	find_sender(&e, ids, ids >> 32);
	e.altstack = READ(task_struct, task, sas_ss_sp);
	e.altstack_bytes = READ(task_struct, task, sas_ss_size);
	ss_flags = READ(task_struct, task, sas_ss_flags);
	if (is_on_altstack(&e, ss_flags, READ(pt_regs, regs, sp)))
		e.bits |= TRACE_ON_ALTSTACK;
	begin(&e.head, TRACE_SIGNAL, task);
	if (wants(TRACE_SIGNAL))
		emit(&e, sizeof(e));
	if (e.handler <= 1)
		return 0;
	if (wants(TRACE_ALTSTACK) && e.altstack_bytes && e.sa_flags & SA_ONSTACK) {
		e.head.kind = TRACE_ALTSTACK;
		emit(&e, sizeof(e));
	}
	result = READ(pt_regs, regs, ax);
	if ((long)READ(pt_regs, regs, orig_ax) < 0 || !ends_call(result, e.sa_flags))
		return 0;
	if (wants(TRACE_FUTEX))
		futex_ends(task, -EINTR);
	if (wants_restarts() && result == -ERESTART_RESTARTBLOCK)
		restart_ends(ids);
	if (wants(TRACE_EINTR))
		call_broken_off(regs, task, result, e.signo);
	return 0;
}

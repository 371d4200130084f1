/*
 * Iterator over the tasks of one process (limited by the link), and what they share.
 *
 * Idempotent, as iterators must be: the kernel runs it again for a task whose records did not fit.
 * Every access goes through READ and its siblings (read.h).
 */
#include "read.h"
#include "tasks.h"
#include "restart.bpf.h"

/* include/linux/pid_types.h */
#define PIDTYPE_PGID 2
#define PIDTYPE_SID 3
/* include/linux/sched.h: __TASK_STOPPED | __TASK_TRACED, whose stacks hold dead timers */
#define TASK_STOPPED_OR_TRACED 0xc
/* include/linux/sched.h: task->atomic_flags */
#define PFA_NO_NEW_PRIVS_BIT 0x1
/* include/linux/thread_info.h: enum syscall_work_bit */
#define SYSCALL_WORK_USER_DISPATCH 0x20
/* arch/x86/include/asm/page_64_types.h */
#define STACK_WORDS_A_READ 16
#define TIMER_ENQUEUED 1

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
	__u64 zero;
	union any_record record;
	__u64 words[STACK_WORDS_A_READ];
};

/* Too large for the 512 bytes of a BPF stack. One reader at a time uses it. */
BPF_ARRAY(scratch, struct scratch, 1);

struct walk {
	struct seq_file *seq;
	void *task;
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

static __always_inline __u32 inode_device(void *inode)
{
	void *sb = (void *)READ(inode, inode, i_sb);

	return READ(super_block, sb, s_dev);
}

static __always_inline __u32 core_bits(void *task)
{
	void *undo = (void *)READ(task_struct, task, sysvsem.undo_list);
	__u32 bits = 0;

	if (READ_BITS(task_struct, task, restore_sigmask))
		bits |= TASKS_RESTORE_SIGMASK;
	if (READ_BITS(task_struct, task, in_execve))
		bits |= TASKS_IN_EXECVE;
	if (READ(task_struct, task, atomic_flags) & PFA_NO_NEW_PRIVS_BIT)
		bits |= TASKS_NO_NEW_PRIVS;
	if (READ(task_struct, task, io_uring))
		bits |= TASKS_IO_URING;
	if (undo && READ(sem_undo_list, undo, list_proc.next) !=
			    (__u64)ADDRESS(sem_undo_list, undo, list_proc))
		bits |= TASKS_SEM_UNDO;
	if (READ(task_struct, task, thread_info.syscall_work) & SYSCALL_WORK_USER_DISPATCH)
		bits |= TASKS_USER_DISPATCH;
	if (READ(task_struct, task, vfork_done))
		bits |= TASKS_VFORK_DONE;
	if (READ(task_struct, task, children.next) != (__u64)ADDRESS(task_struct, task, children))
		bits |= TASKS_CHILDREN;
	return bits;
}

static __always_inline void emit_core(struct walk *w, struct tasks_core *e)
{
	void *task = w->task;
	void *parent = (void *)READ(task_struct, task, real_parent);
	void *pid = (void *)READ(task_struct, task, thread_pid);
	__u32 level = READ(pid, pid, level);
	void *pid_ns = (void *)READ_AT(__u64, ADDRESS(pid, pid, numbers) + level * STRUCT_BYTES(upid) +
						      OFFSET(upid, ns));
	void *cred = (void *)READ(task_struct, task, real_cred);
	void *user_ns = (void *)READ(cred, cred, user_ns);

	BEGIN(*e, TASKS_CORE);
	e->tid = task_number(w, task);
	e->tgid = task_number(w, w->leader);
	e->parent_tid = task_number(w, parent);
	e->parent_tgid = group_number(w, parent);
	e->state = READ(task_struct, task, __state);
	e->exit_state = READ(task_struct, task, exit_state);
	e->exit_code = READ(task_struct, task, exit_code);
	e->flags = READ(task_struct, task, flags);
	e->exit_signal = READ(task_struct, task, exit_signal);
	e->pdeath_signal = READ(task_struct, task, pdeath_signal);
	e->personality = READ(task_struct, task, personality);
	e->ptrace = READ(task_struct, task, ptrace);
	if (e->ptrace) {
		parent = (void *)READ(task_struct, task, parent);
		e->tracer_tid = task_number(w, parent);
	}
	e->policy = READ(task_struct, task, policy);
	e->prio = READ(task_struct, task, prio);
	e->static_prio = READ(task_struct, task, static_prio);
	e->normal_prio = READ(task_struct, task, normal_prio);
	e->rt_priority = READ(task_struct, task, rt_priority);
	e->seccomp_mode = READ(task_struct, task, seccomp.mode);
	e->seccomp_filters = READ_AS(task_struct, task, seccomp.filter_count, __u32);
	e->bits = core_bits(task);
	e->ti_status = READ(task_struct, task, thread_info.status);
	e->pid_ns = READ(pid_namespace, pid_ns, ns.inum);
	e->user_ns = READ(user_namespace, user_ns, ns.inum);
	e->observed_ns = bpf_ktime_get_ns();
	e->boottime_ns = bpf_ktime_get_boot_ns();
	e->jobctl = READ(task_struct, task, jobctl);
	e->nvcsw = READ(task_struct, task, nvcsw);
	e->nivcsw = READ(task_struct, task, nivcsw);
	e->exec_start_ns = READ(task_struct, task, se.exec_start);
	e->start_boottime_ns = READ(task_struct, task, start_boottime);
	e->utime_ns = READ(task_struct, task, utime);
	e->stime_ns = READ(task_struct, task, stime);
	e->runtime_ns = READ(task_struct, task, se.sum_exec_runtime);
	COPY(task_struct, task, comm, e->comm);
	EMIT(w, *e);
}

static __always_inline void read_rseq(void *task, struct tasks_abi *e)
{
	if (PRESENT(task_struct, rseq_len)) {
		e->rseq = READ(task_struct, task, rseq);
		e->rseq_len = READ(task_struct, task, rseq_len);
		e->rseq_sig = READ(task_struct, task, rseq_sig);
		return;
	}
	e->rseq = READ(task_struct___rseq_data, task, rseq.usrptr);
	e->rseq_len = READ(task_struct___rseq_data, task, rseq.len);
	e->rseq_sig = READ(task_struct___rseq_data, task, rseq.sig);
}

static __always_inline void emit_abi(struct walk *w, void *regs, struct tasks_abi *e)
{
	void *task = w->task;
	void *files = (void *)READ(task_struct, task, files);
	void *fs = (void *)READ(task_struct, task, fs);
	void *sighand = (void *)READ(task_struct, task, sighand);
	void *cred = (void *)READ(task_struct, task, cred);

	BEGIN(*e, TASKS_ABI);
	e->sas_ss_flags = READ(task_struct, task, sas_ss_flags);
	e->files_count = READ_AS(files_struct, files, count, __u32);
	e->fs_users = READ(fs_struct, fs, users);
	e->umask = READ(fs_struct, fs, umask);
	e->sighand_count = READ_AS(sighand_struct, sighand, count, __u32);
	e->securebits = READ(cred, cred, securebits);
	e->ti_flags = READ(task_struct, task, thread_info.flags);
	e->robust_list = READ(task_struct, task, robust_list);
	e->compat_robust_list = READ(task_struct, task, compat_robust_list);
	e->sas_ss_sp = READ(task_struct, task, sas_ss_sp);
	e->sas_ss_size = READ(task_struct, task, sas_ss_size);
	e->set_child_tid = READ(task_struct, task, set_child_tid);
	e->clear_child_tid = READ(task_struct, task, clear_child_tid);
	e->timer_slack_ns = READ(task_struct, task, timer_slack_ns);
	e->default_timer_slack_ns = READ(task_struct, task, default_timer_slack_ns);
	read_rseq(task, e);
	e->blocked = READ_AS(task_struct, task, blocked, __u64);
	e->real_blocked = READ_AS(task_struct, task, real_blocked, __u64);
	e->saved_sigmask = READ_AS(task_struct, task, saved_sigmask, __u64);
	e->pending = READ_AS(task_struct, task, pending.signal, __u64);
	e->orig_ax = READ(pt_regs, regs, orig_ax);
	e->ax = READ(pt_regs, regs, ax);
	e->ip = READ(pt_regs, regs, ip);
	e->sp = READ(pt_regs, regs, sp);
	e->mm = READ(task_struct, task, mm);
	e->files = (__u64)files;
	e->fs = (__u64)fs;
	e->sighand = (__u64)sighand;
	e->signal = READ(task_struct, task, signal);
	e->nsproxy = READ(task_struct, task, nsproxy);
	e->cred = (__u64)cred;
	EMIT(w, *e);
}

static __always_inline void emit_restart(struct walk *w, struct tasks_restart *e)
{
	void *task = w->task;
	BEGIN(*e, TASKS_RESTART);
	if (read_restart(task, &e->block))
		EMIT(w, *e);
}

static __always_inline void emit_hrtimer(struct walk *w, void *timer, struct tasks_blocked *e)
{
	void *base = (void *)READ(hrtimer, timer, base);

	if (READ(hrtimer_sleeper, timer, task) != (__u64)w->task ||
	    !(READ(hrtimer, timer, state) & TIMER_ENQUEUED))
		return;
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
	if (READ(process_timer, timer, task) != (__u64)w->task ||
	    !READ(timer_list, timer, entry.pprev))
		return;
	BEGIN(*e, TASKS_BLOCKED);
	e->type = TASKS_BLOCKED_JIFFIES;
	e->expires = READ(timer_list, timer, expires);
	e->latest = e->expires;
	e->jiffies = bpf_jiffies64();
	EMIT(w, *e);
}

/* All ones when the words are equal, else zero; without a branch, see find_timer. */
static __always_inline __u64 equal_mask(__u64 a, __u64 b)
{
	__u64 difference = a ^ b;

	/* Or the compiler sees through it, and makes branches again. */
	asm volatile("" : "+r"(difference));
	return (difference - 1) & ~difference;
}

/*
 * Returns where in the live frames between `sp` and `regs` one of the timer callbacks is stored,
 * as the start of a block of STACK_WORDS_A_READ words; zero if nowhere. No branch depends on the
 * words: the verifier would walk every combination, and loading take 0.4 s.
 */
static __always_inline __u64 find_timer(__u64 sp, __u64 regs, struct scratch *buffer)
{
	__u64 found, word;
	int i, j;

	for (i = 0; i < TASKS_STACK_WORDS / STACK_WORDS_A_READ; i++) {
		if (sp >= regs || bpf_probe_read_kernel(buffer->words, sizeof(buffer->words),
							(void *)sp))
			return 0;
		found = 0;
#pragma unroll
		for (j = 0; j < STACK_WORDS_A_READ; j++) {
			word = buffer->words[j];
			found |= equal_mask(word, SYMBOL(hrtimer_wakeup));
			found |= equal_mask(word, SYMBOL(process_timeout));
		}
		if ((__s64)found < 0)
			return sp;
		sp += sizeof(buffer->words);
	}
	return 0;
}

/* Only of a task that sleeps: the stack of a running one changes, that of a traced one is stale. */
static __always_inline void emit_blocked(struct walk *w, __u64 regs, struct scratch *buffer)
{
	void *task = w->task;
	__u32 state = READ(task_struct, task, __state);
	__u64 sp = READ(task_struct, task, thread.sp);
	/* Zeroes, but unknown to the verifier: see find_timer. */
	__u64 hrtimer_at = buffer->zero, jiffies_at = buffer->zero;
	int j;

	if (!state || state & TASK_STOPPED_OR_TRACED || READ(task_struct, task, on_cpu))
		return;
	sp = find_timer(sp, regs, buffer);
	if (!sp)
		return;
	for (j = 0; j < STACK_WORDS_A_READ; j++) {
		if (buffer->words[j] == SYMBOL(hrtimer_wakeup))
			hrtimer_at = sp + j * 8;
		if (buffer->words[j] == SYMBOL(process_timeout))
			jiffies_at = sp + j * 8;
	}
	if (hrtimer_at)
		emit_hrtimer(w, (void *)hrtimer_at - OFFSET(hrtimer, function),
			     &buffer->record.blocked);
	if (jiffies_at)
		emit_jiffies_timer(w, (void *)jiffies_at - OFFSET(timer_list, function),
				   &buffer->record.blocked);
}

static __always_inline void emit_namespaces(struct walk *w, struct tasks_namespaces *e)
{
	void *task = w->task, *leader = w->leader;
	void *nsproxy = (void *)READ(task_struct, task, nsproxy);
	void *ns;

	if (!nsproxy ||
	    (task != leader && READ(task_struct, leader, nsproxy) == (__u64)nsproxy))
		return;
	BEGIN(*e, TASKS_NAMESPACES);
	e->nsproxy = (__u64)nsproxy;
	e->refs = READ_AS(nsproxy, nsproxy, count, __u32);
	ns = (void *)READ(nsproxy, nsproxy, uts_ns);
	e->uts = READ(uts_namespace, ns, ns.inum);
	ns = (void *)READ(nsproxy, nsproxy, ipc_ns);
	e->ipc = READ(ipc_namespace, ns, ns.inum);
	ns = (void *)READ(nsproxy, nsproxy, mnt_ns);
	e->mnt = READ(mnt_namespace, ns, ns.inum);
	ns = (void *)READ(nsproxy, nsproxy, pid_ns_for_children);
	e->pid_for_children = READ(pid_namespace, ns, ns.inum);
	ns = (void *)READ(nsproxy, nsproxy, net_ns);
	e->net = READ(net, ns, ns.inum);
	ns = (void *)READ(nsproxy, nsproxy, time_ns);
	e->time = READ(time_namespace, ns, ns.inum);
	ns = (void *)READ(nsproxy, nsproxy, time_ns_for_children);
	e->time_for_children = READ(time_namespace, ns, ns.inum);
	ns = (void *)READ(nsproxy, nsproxy, cgroup_ns);
	e->cgroup = READ(cgroup_namespace, ns, ns.inum);
	EMIT(w, *e);
}

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

/* `length` (a constant) bytes at `source`, of which `used` mean something. */
#define EMIT_BYTES(walk, kind_value, source, length, used_value, record) \
	do { \
		(record)->kind = (kind_value); \
		(record)->size = TASKS_BYTES_HEADER + (length); \
		(record)->used = (used_value); \
		bpf_probe_read_kernel((record)->bytes, length, source); \
		bpf_seq_write((walk)->seq, record, TASKS_BYTES_HEADER + (length)); \
	} while (0)

static __always_inline void read_exe(void *mm, struct tasks_mm *e)
{
	void *exe = (void *)READ(mm_struct, mm, exe_file);
	void *inode = (void *)READ(file, exe, f_inode);

	e->exe = (__u64)exe;
	e->exe_ino = READ(inode, inode, i_ino);
	e->exe_dev = inode_device(inode);
}

static __always_inline void emit_mm(struct walk *w, void *mm, struct tasks_mm *e)
{
	void *ldt = (void *)READ(mm_struct, mm, context.ldt);

	BEGIN(*e, TASKS_MM);
	e->mm = (__u64)mm;
	e->mm_users = READ_AS(mm_struct, mm, mm_users, __u32);
	e->mm_count = READ_AS(mm_struct, mm, mm_count, __u32);
	e->map_count = READ(mm_struct, mm, map_count);
	e->membarrier_state = READ_AS(mm_struct, mm, membarrier_state, __u32);
	e->pkey_map = READ(mm_struct, mm, context.pkey_allocation_map);
	e->ldt_entries = READ(ldt_struct, ldt, nr_entries);
	e->start_code = READ(mm_struct, mm, start_code);
	e->end_code = READ(mm_struct, mm, end_code);
	e->start_data = READ(mm_struct, mm, start_data);
	e->end_data = READ(mm_struct, mm, end_data);
	e->start_brk = READ(mm_struct, mm, start_brk);
	e->brk = READ(mm_struct, mm, brk);
	e->start_stack = READ(mm_struct, mm, start_stack);
	e->arg_start = READ(mm_struct, mm, arg_start);
	e->arg_end = READ(mm_struct, mm, arg_end);
	e->env_start = READ(mm_struct, mm, env_start);
	e->env_end = READ(mm_struct, mm, env_end);
	e->flags = READ_AS(mm_struct, mm, flags, __u64);
	e->def_flags = READ(mm_struct, mm, def_flags);
	e->total_vm = READ(mm_struct, mm, total_vm);
	e->locked_vm = READ(mm_struct, mm, locked_vm);
	e->vdso = READ(mm_struct, mm, context.vdso);
	e->notifier = READ(mm_struct, mm, notifier_subscriptions);
	read_exe(mm, e);
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

/* Slots of the mm's table of AIO contexts; those beyond `used` are not its own. */
static __always_inline void emit_aio(struct walk *w, void *mm, struct tasks_bytes *e)
{
	void *table = (void *)READ(mm_struct, mm, ioctx_table);

	if (table)
		EMIT_BYTES(w, TASKS_AIO, ADDRESS(kioctx_table, table, table),
			   TASKS_AIO_SLOTS * 8, READ(kioctx_table, table, nr) * 8, e);
}

/* The kernel allocates the table in whole pages, so the first page can be read entirely. */
static __always_inline void emit_ldt(struct walk *w, void *mm, struct tasks_bytes *e)
{
	void *ldt = (void *)READ(mm_struct, mm, context.ldt);
	void *entries;

	if (!ldt)
		return;
	entries = (void *)READ(ldt_struct, ldt, entries);
	EMIT_BYTES(w, TASKS_LDT, entries, TASKS_LDT_BYTES,
		   READ(ldt_struct, ldt, nr_entries) * 8, e);
}

static __always_inline void emit_memory(struct walk *w, union any_record *record)
{
	void *task = w->task, *leader = w->leader;
	void *mm = (void *)READ(task_struct, task, mm);

	if (!mm || (task != leader && READ(task_struct, leader, mm)))
		return;
	emit_mm(w, mm, &record->mm);
	EMIT_BYTES(w, TASKS_AUXV, ADDRESS(mm_struct, mm, saved_auxv),
		   MEMBER_BYTES(mm_struct, saved_auxv), MEMBER_BYTES(mm_struct, saved_auxv),
		   &record->bytes);
	emit_aio(w, mm, &record->bytes);
	emit_ldt(w, mm, &record->bytes);
}

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
	w.leader = (void *)READ(task_struct, task, group_leader);
	w.group_signal = (void *)READ(task_struct, task, signal);
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

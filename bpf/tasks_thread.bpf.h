/*
 * The part of the iterator over tasks that reads one task_struct.
 */
#ifndef CKPT_TASKS_THREAD_H
#define CKPT_TASKS_THREAD_H

#include "tasks_walk.bpf.h"
#include "restart.bpf.h"

/* include/linux/sched.h: task->atomic_flags */
#define PFA_NO_NEW_PRIVS_BIT 0x1
/* include/linux/thread_info.h: enum syscall_work_bit */
#define SYSCALL_WORK_USER_DISPATCH 0x20

static __always_inline __u32 core_bits(void *task, struct task_struct *copy)
{
	void *undo = (void *)LOAD(task_struct, copy, sysvsem.undo_list);
	__u32 bits = 0;

	if (LOAD_BITS(task_struct, copy, restore_sigmask))
		bits |= TASKS_RESTORE_SIGMASK;
	if (LOAD_BITS(task_struct, copy, in_execve))
		bits |= TASKS_IN_EXECVE;
	if (LOAD(task_struct, copy, atomic_flags) & PFA_NO_NEW_PRIVS_BIT)
		bits |= TASKS_NO_NEW_PRIVS;
	if (LOAD(task_struct, copy, io_uring))
		bits |= TASKS_IO_URING;
	if (undo && READ(sem_undo_list, undo, list_proc.next) !=
			    (__u64)ADDRESS(sem_undo_list, undo, list_proc))
		bits |= TASKS_SEM_UNDO;
	if (LOAD(task_struct, copy, thread_info.syscall_work) & SYSCALL_WORK_USER_DISPATCH)
		bits |= TASKS_USER_DISPATCH;
	if (LOAD(task_struct, copy, vfork_done))
		bits |= TASKS_VFORK_DONE;
	if (LOAD(task_struct, copy, children.next) != (__u64)ADDRESS(task_struct, task, children))
		bits |= TASKS_CHILDREN;
	return bits;
}

static __always_inline void emit_core(struct walk *w, struct tasks_core *e)
{
	struct task_struct *copy = w->copy;
	void *task = w->task;
	void *parent = (void *)LOAD(task_struct, copy, real_parent);
	void *pid = (void *)LOAD(task_struct, copy, thread_pid);
	__u32 level = READ(pid, pid, level);
	void *pid_ns = (void *)READ_AT(__u64, ADDRESS(pid, pid, numbers) + level * STRUCT_BYTES(upid) +
						      OFFSET(upid, ns));
	void *cred = (void *)LOAD(task_struct, copy, real_cred);
	void *user_ns = (void *)READ(cred, cred, user_ns);

	BEGIN(*e, TASKS_CORE);
	e->tid = task_number(w, task);
	e->tgid = task_number(w, w->leader);
	e->parent_tid = task_number(w, parent);
	e->parent_tgid = group_number(w, parent);
	e->state = LOAD(task_struct, copy, __state);
	e->exit_state = LOAD(task_struct, copy, exit_state);
	e->exit_code = LOAD(task_struct, copy, exit_code);
	e->flags = LOAD(task_struct, copy, flags);
	e->exit_signal = LOAD(task_struct, copy, exit_signal);
	e->pdeath_signal = LOAD(task_struct, copy, pdeath_signal);
	e->personality = LOAD(task_struct, copy, personality);
	e->ptrace = LOAD(task_struct, copy, ptrace);
	if (e->ptrace) {
		parent = (void *)LOAD(task_struct, copy, parent);
		e->tracer_tid = task_number(w, parent);
	}
	e->policy = LOAD(task_struct, copy, policy);
	e->prio = LOAD(task_struct, copy, prio);
	e->static_prio = LOAD(task_struct, copy, static_prio);
	e->normal_prio = LOAD(task_struct, copy, normal_prio);
	e->rt_priority = LOAD(task_struct, copy, rt_priority);
	e->seccomp_mode = LOAD(task_struct, copy, seccomp.mode);
	e->seccomp_filters = LOAD_AS(task_struct, copy, seccomp.filter_count, __u32);
	e->bits = core_bits(task, copy);
	e->ti_status = LOAD(task_struct, copy, thread_info.status);
	e->pid_ns = READ(pid_namespace, pid_ns, ns.inum);
	e->user_ns = READ(user_namespace, user_ns, ns.inum);
	e->observed_ns = bpf_ktime_get_ns();
	e->boottime_ns = bpf_ktime_get_boot_ns();
	e->jobctl = LOAD(task_struct, copy, jobctl);
	e->nvcsw = LOAD(task_struct, copy, nvcsw);
	e->nivcsw = LOAD(task_struct, copy, nivcsw);
	e->exec_start_ns = LOAD(task_struct, copy, se.exec_start);
	e->start_boottime_ns = LOAD(task_struct, copy, start_boottime);
	e->utime_ns = LOAD(task_struct, copy, utime);
	e->stime_ns = LOAD(task_struct, copy, stime);
	e->runtime_ns = LOAD(task_struct, copy, se.sum_exec_runtime);
	__builtin_memcpy(e->comm, ADDRESS(task_struct, copy, comm), sizeof(e->comm));
	EMIT(w, *e);
}

static __always_inline void read_rseq(struct task_struct *copy, struct tasks_abi *e)
{
	if (PRESENT(task_struct, rseq_len)) {
		e->rseq = LOAD(task_struct, copy, rseq);
		e->rseq_len = LOAD(task_struct, copy, rseq_len);
		e->rseq_sig = LOAD(task_struct, copy, rseq_sig);
		return;
	}
	e->rseq = LOAD(task_struct___rseq_data, copy, rseq.usrptr);
	e->rseq_len = LOAD(task_struct___rseq_data, copy, rseq.len);
	e->rseq_sig = LOAD(task_struct___rseq_data, copy, rseq.sig);
}

static __always_inline void emit_abi(struct walk *w, void *regs, struct tasks_abi *e)
{
	struct task_struct *copy = w->copy;
	void *task = w->task;
	void *files = (void *)LOAD(task_struct, copy, files);
	void *fs = (void *)LOAD(task_struct, copy, fs);
	void *sighand = (void *)LOAD(task_struct, copy, sighand);
	void *cred = (void *)LOAD(task_struct, copy, cred);

	BEGIN(*e, TASKS_ABI);
	e->sas_ss_flags = LOAD(task_struct, copy, sas_ss_flags);
	e->files_count = READ_AS(files_struct, files, count, __u32);
	e->fs_users = READ(fs_struct, fs, users);
	e->umask = READ(fs_struct, fs, umask);
	e->sighand_count = READ_AS(sighand_struct, sighand, count, __u32);
	e->securebits = READ(cred, cred, securebits);
	e->ti_flags = LOAD(task_struct, copy, thread_info.flags);
	e->robust_list = LOAD(task_struct, copy, robust_list);
	e->compat_robust_list = LOAD(task_struct, copy, compat_robust_list);
	e->sas_ss_sp = LOAD(task_struct, copy, sas_ss_sp);
	e->sas_ss_size = LOAD(task_struct, copy, sas_ss_size);
	e->set_child_tid = LOAD(task_struct, copy, set_child_tid);
	e->clear_child_tid = LOAD(task_struct, copy, clear_child_tid);
	e->timer_slack_ns = LOAD(task_struct, copy, timer_slack_ns);
	e->default_timer_slack_ns = LOAD(task_struct, copy, default_timer_slack_ns);
	read_rseq(copy, e);
	e->blocked = LOAD_AS(task_struct, copy, blocked, __u64);
	e->real_blocked = LOAD_AS(task_struct, copy, real_blocked, __u64);
	e->saved_sigmask = LOAD_AS(task_struct, copy, saved_sigmask, __u64);
	e->pending = LOAD_AS(task_struct, copy, pending.signal, __u64);
	e->orig_ax = READ(pt_regs, regs, orig_ax);
	e->ax = READ(pt_regs, regs, ax);
	e->ip = READ(pt_regs, regs, ip);
	e->sp = READ(pt_regs, regs, sp);
	e->mm = LOAD(task_struct, copy, mm);
	e->files = (__u64)files;
	e->fs = (__u64)fs;
	e->sighand = (__u64)sighand;
	e->signal = LOAD(task_struct, copy, signal);
	e->nsproxy = LOAD(task_struct, copy, nsproxy);
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

static __always_inline void emit_namespaces(struct walk *w, struct tasks_namespaces *e)
{
	struct task_struct *copy = w->copy;
	void *task = w->task, *leader = w->leader;
	void *nsproxy = (void *)LOAD(task_struct, copy, nsproxy);
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

#endif

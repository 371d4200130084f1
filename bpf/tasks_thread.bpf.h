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

#endif

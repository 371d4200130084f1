/*
 * What signals and calls mean, by the kernel's own rules; for trace.bpf.c. No maps here: BCC rewrites
 * their use in the main file only.
 */
#ifndef CKPT_TRACE_RULES_BPF_H
#define CKPT_TRACE_RULES_BPF_H

#include "read.h"
#include "trace.h"

/* include/linux/errno.h */
#define ERESTARTSYS 512
#define ERESTARTNOHAND 514
#define ERESTART_RESTARTBLOCK 516
/* arch/x86/entry/syscalls/syscall_64.tbl */
#define NR_FUTEX 202
#define NR_FUTEX_WAITV 449
#define NR_FUTEX_WAIT 455
/* include/uapi/linux/futex.h */
#define FUTEX_CMD_MASK 0x7f
#define FUTEX_WAIT_OPS (1 << 0 | 1 << 6 | 1 << 9 | 1 << 11 | 1 << 13)
/* include/uapi/asm-generic/siginfo.h, arch/x86/include/uapi/asm/signal.h, include/linux/sched */
#define SI_KERNEL 0x80
#define SA_RESTART 0x10000000
#define SS_AUTODISARM (1U << 31)
#define SIGNAL_GROUP_EXIT 0x4

/* The special siginfo pointers of include/linux/signal.h: 0 from a task, 1 from the kernel. */
static __always_inline int signal_code(void *info)
{
	if ((__u64)info <= 1)
		return info ? SI_KERNEL : 0;
	return READ(kernel_siginfo, info, si_code);
}

static __always_inline int signal_pid(void *info)
{
	return (__u64)info <= 1 ? 0 : READ(kernel_siginfo, info, _sifields._kill._pid);
}

/* on_sig_stack() of include/linux/sched/signal.h (6.18) */
static __always_inline int is_on_altstack(struct trace_signal *e, __u32 flags, __u64 sp)
{
	return !(flags & SS_AUTODISARM) && sp > e->altstack &&
	       sp - e->altstack <= e->altstack_bytes;
}

/* handle_signal() of arch/x86/kernel/signal.c (6.18): which calls does a handler end? */
static __always_inline int ends_call(long result, __u64 sa_flags)
{
	return result == -ERESTART_RESTARTBLOCK || result == -ERESTARTNOHAND ||
	       (result == -ERESTARTSYS && !(sa_flags & SA_RESTART));
}

/*
 * A process that a signal kills has SIGKILL for each of its threads; which signal it was stands in
 * group_exit_code. Zero there means exit_group() or exec by another thread: no signal at all.
 */
static __always_inline int fatal_signal(void *task)
{
	void *signal = (void *)READ(task_struct, task, signal);

	if (!(READ(signal_struct, signal, flags) & SIGNAL_GROUP_EXIT))
		return 0;
	return READ(signal_struct, signal, group_exit_code) & 0x7f;
}

static __always_inline int is_futex_wait(__u64 nr, void *regs, __u32 *op)
{
	*op = nr == NR_FUTEX ? READ(pt_regs, regs, si) & FUTEX_CMD_MASK : 0;
	return nr == NR_FUTEX_WAIT || nr == NR_FUTEX_WAITV ||
	       (nr == NR_FUTEX && *op < 32 && FUTEX_WAIT_OPS >> *op & 1);
}

/* arch/x86/entry/syscalls/syscall_64.tbl and syscall_32.tbl */
#define NR_RESTART_SYSCALL_64 219
#define NR_RESTART_SYSCALL_32 0

/* Number of the call that is being made, with read(2) not taken for the other restart_syscall. */
static __always_inline __u64 call_number(void *regs, void *task)
{
	__u64 nr = READ(pt_regs, regs, orig_ax);

	return nr == NR_RESTART_SYSCALL_32 && !is_compat(task) ? ~0ULL : nr;
}

static __always_inline int is_restart_syscall(__u64 nr)
{
	return nr == NR_RESTART_SYSCALL_64 || nr == NR_RESTART_SYSCALL_32;
}

static __always_inline int is_futex_call(__u64 nr)
{
	return nr == NR_FUTEX || nr == NR_FUTEX_WAITV || nr == NR_FUTEX_WAIT;
}

#endif

/*
 * Record of the iterator that looks at where tasks stand (stack.bpf.c), one a task: user registers,
 * the scheduler's clocks, and the return addresses on the kernel stack.
 */
#ifndef CKPT_STACK_H
#define CKPT_STACK_H

#define STACK_MAX_FRAMES 40
/* Words of struct pt_regs, arch/x86/include/asm/ptrace.h. */
#define STACK_USER_WORDS 21

struct stack_record {
	__s32 tid;
	__u32 on_cpu;
	__u32 cpu;
	__u32 frame_count;
	__u32 state;
	__u32 exit_state;
	__u32 ti_status;
	/* Who holds the lock of its memory's layout for writing; 0: nobody, or not to be known. */
	__s32 mmap_lock_owner;
	__u64 mmap_lock_count;
	__u64 observed_ns;
	/* When it was last put on a CPU (0: this kernel does not say), and how long it then ran. */
	__u64 last_arrival_ns;
	__u64 last_run_ns;
	__u64 exec_start_ns;
	/* The same of the reading task. */
	__u64 reader_arrival_ns;
	__u64 reader_run_ns;
	__u64 reader_exec_start_ns;
	__u64 user[STACK_USER_WORDS];
	__u64 frames[STACK_MAX_FRAMES];
};

#endif

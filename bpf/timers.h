/* Record of the iterator over POSIX timers (timers.bpf.c), one a k_itimer. */
#ifndef CKPT_TIMERS_H
#define CKPT_TIMERS_H

/* The verifier walks every iteration, so a pass is short; the reader goes on after its last one. */
#define TIMERS_A_PASS 8

struct timers_record {
	__u64 node;
	__s32 id;
	__s32 clockid;
	__s32 notify;
	__s32 signo;
	__s32 notify_tid;
	__s32 status;
	__u32 signal_queued;
	__u32 enqueued;
	__u64 sigval;
	__u64 real_expires_ns;
	__u64 cpu_expires_ns;
	__u64 alarm_expires_ns;
	__u64 interval_ns;
	__s64 overrun;
	__s64 overrun_last;
};

#endif

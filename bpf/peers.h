/*
 * Record of the iterator over all tasks of the machine (peers.bpf.c), one a task: who they are,
 * what they share and which call they are in. Addresses of kernel objects serve for identity only.
 */
#ifndef CKPT_PEERS_H
#define CKPT_PEERS_H

struct peers_record {
	__s32 tid;
	__s32 tgid;
	__s32 parent_tgid;
	__s32 tracer_tid;
	__u32 state;
	__u32 exit_state;
	__u32 flags;
	__u32 on_cpu;
	__u32 ti_status;
	__u32 padding;
	__u64 mm;
	__u64 files;
	__u64 fs;
	__u64 sighand;
	__u64 orig_ax;
	__u64 bx;
	__u64 cx;
	__u64 dx;
	__u64 si;
	__u64 di;
	__u64 bp;
	__u64 r10;
	__u64 r8;
	__u64 r9;
	char comm[16];
};

#endif

/* Record of the iterator over epoll items that wait to be reported (ready.bpf.c). */
#ifndef CKPT_READY_H
#define CKPT_READY_H

/* The verifier walks every iteration; an instance with more is reported as having more. */
#define READY_MOST 32
/* fd of the last record of an instance: its file is all that counts then, and how it ended. */
#define READY_END_WHOLE -1
#define READY_END_MORE -2

struct ready_record {
	__u64 epoll;
	__u64 file;
	__s32 fd;
	__u32 padding;
};

#endif

/*
 * A struct restart_block, shared by the iterator over tasks and the event programs. Its union is
 * read as each of its three members; the function says which of them means something.
 */
#ifndef CKPT_RESTART_H
#define CKPT_RESTART_H

struct restart {
	__u64 fn;
	__u64 nanosleep_rmtp;
	__u64 nanosleep_expires_ns;
	__s32 nanosleep_clockid;
	__s32 nanosleep_type;
	__u64 futex_uaddr;
	__u64 futex_uaddr2;
	__u64 futex_time_ns;
	__u32 futex_val;
	__u32 futex_flags;
	__u32 futex_bitset;
	__s32 poll_nfds;
	__u64 poll_ufds;
	__s64 poll_end_s;
	__s64 poll_end_ns;
	__s32 poll_has_timeout;
	__u32 padding;
};

#endif

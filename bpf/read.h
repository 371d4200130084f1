/*
 * Reading kernel structs whose layout the host side takes from BTF.
 *
 * ckpt/host/bpf_headers.py scans the programs for these macros and declares exactly the named
 * members, at the running kernel's offsets. A path may go through nested structs (a.b.c); anonymous
 * levels are left out. A struct name may carry a ___flavor, for members of other kernel versions.
 * A member that this kernel lacks reads as zero and is reported as a gap by the host side.
 *
 * The pointer argument has to be a plain name, or &name->member.
 */
#ifndef CKPT_READ_H
#define CKPT_READ_H

#include "synthesized.h"

#define OFFSET(type, member) __builtin_offsetof(struct type, member)
#define PRESENT(type, member) (OFFSET(type, member) < KERNEL_ABSENT)
#define STRUCT_BYTES(type) sizeof(struct type)
#define MEMBER_BYTES(type, member) sizeof(((struct type *)0)->member)
#define ADDRESS(type, pointer, member) ((void *)(pointer) + OFFSET(type, member))

/* Value of a scalar or pointer (as __u64) member. */
#define READ(type, pointer, member) \
	({ \
		typeof(((struct type *)0)->member) value_ = 0; \
		if (PRESENT(type, member)) \
			bpf_probe_read_kernel(&value_, sizeof(value_), \
					      ADDRESS(type, pointer, member)); \
		value_; \
	})

/* The same of a struct that was copied whole into our own memory: a plain load. */
#define LOAD(type, copy, member) \
	({ \
		typeof(((struct type *)0)->member) value_ = 0; \
		if (PRESENT(type, member)) \
			value_ = *(typeof(value_) *)ADDRESS(type, copy, member); \
		value_; \
	})
#define LOAD_AS(type, copy, member, scalar) \
	({ \
		scalar value_ = 0; \
		if (PRESENT(type, member)) \
			value_ = *(scalar *)ADDRESS(type, copy, member); \
		value_; \
	})
#define LOAD_BITS(type, copy, member) \
	({ \
		__u32 value_ = 0; \
		if (type##__##member##__WIDTH) \
			value_ = *(__u8 *)((void *)(copy) + type##__##member##__OFFSET); \
		(value_ >> type##__##member##__SHIFT) & type##__##member##__MASK; \
	})

/* Value of a bit field. */
#define READ_BITS(type, pointer, member) \
	({ \
		__u32 value_ = 0; \
		if (type##__##member##__WIDTH) \
			bpf_probe_read_kernel(&value_, sizeof(value_), \
					      (void *)(pointer) + type##__##member##__OFFSET); \
		(value_ >> type##__##member##__SHIFT) & type##__##member##__MASK; \
	})

/* First bytes of a member of any type, read as a scalar type: refcount_t, atomic_t, sigset_t. */
#define READ_AS(type, pointer, member, scalar) \
	({ \
		scalar value_ = 0; \
		if (PRESENT(type, member)) \
			bpf_probe_read_kernel(&value_, sizeof(value_), \
					      ADDRESS(type, pointer, member)); \
		value_; \
	})

/* Copies as many bytes as the (array) destination holds. */
#define COPY(type, pointer, member, destination) \
	do { \
		if (PRESENT(type, member)) \
			bpf_probe_read_kernel(destination, sizeof(destination), \
					      ADDRESS(type, pointer, member)); \
	} while (0)

/* A scalar at an address that was computed. */
#define READ_AT(scalar, address) \
	({ \
		scalar value_ = 0; \
		bpf_probe_read_kernel(&value_, sizeof(value_), (void *)(address)); \
		value_; \
	})

/* Address of a kernel function; patched in at load, zero when the kernel has none of that name. */
#define SYMBOL(name) ((__u64)SYMBOL_##name)

/* Number of a struct pid in the pid namespace of the reading task; zero outside of it. */
static __always_inline int pid_number(void *pid, __u32 level)
{
	if (!pid || READ(pid, pid, level) < level)
		return 0;
	return READ_AT(__s32, ADDRESS(pid, pid, numbers) + level * STRUCT_BYTES(upid));
}

static __always_inline __u32 reader_pid_level(void)
{
	void *current = (void *)bpf_get_current_task();
	void *pid = (void *)READ(task_struct, current, thread_pid);

	return READ(pid, pid, level);
}

#endif

/* Record of the iterator over memory areas (areas.bpf.c), one an area. */
#ifndef CKPT_AREAS_H
#define CKPT_AREAS_H

#define AREAS_NAME_BYTES 80

struct areas_record {
	__u64 start;
	__u64 end;
	__u64 flags;
	__u64 pgoff;
	__u64 file;
	__u64 ino;
	__u64 vm_ops;
	__u64 fault;
	__u64 anon_vma;
	__u64 policy;
	__u64 userfaultfd;
	__u32 dev;
	__u32 has_name;
	char anon_name[AREAS_NAME_BYTES];
};

/* Written instead of the whole record for an area without a name. */
#define AREAS_SHORT_BYTES 96

#endif

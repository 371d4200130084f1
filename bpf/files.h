/* Record of the iterator over open descriptors (files.bpf.c), one a descriptor. */
#ifndef CKPT_FILES_H
#define CKPT_FILES_H

#define FILES_NAME_BYTES 16
#define FILES_ANON_NAME_BYTES 40

/* Functions of file->f_op, by which a table is known on kernels that hide data symbols. */
struct files_operations {
	__u64 release;
	__u64 read_iter;
	__u64 read;
	__u64 write;
	__u64 poll;
	__u64 open;
	__u64 unlocked_ioctl;
	__u64 iterate_shared;
	__u64 show_fdinfo;
};

struct files_record {
	__u32 fd;
	__u32 cloexec;
	__u32 f_mode;
	__u32 f_flags;
	__u32 dev;
	__u32 mode;
	__u32 nlink;
	__u32 rdev;
	__s32 owner_pid;
	__u32 owner_type;
	__u32 owner_uid;
	__u32 owner_euid;
	__s32 owner_signum;
	__u32 has_locks;
	__u64 file;
	__s64 f_count;
	__u64 f_op;
	__s64 f_pos;
	__u64 inode;
	__u64 ino;
	__s64 i_size;
	__u64 sb_magic;
	__u64 private_data;
	struct files_operations operations;
	char fs_type[FILES_NAME_BYTES];
	char anon_name[FILES_ANON_NAME_BYTES];
};

#endif

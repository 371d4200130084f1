/* Iterator over the open descriptors of one task (limited by the link). Idempotent. */
#include "read.h"
#include "files.h"

/* include/uapi/linux/magic.h */
#define ANON_INODE_FS_MAGIC 0x09041934
/* The iterator itself holds one reference while it shows a file (fget_task_next). */
#define ITERATOR_REFERENCES 1

/* Copies of what a descriptor leads to. One reader at a time uses it. */
struct scratch {
	struct file file __attribute__((aligned(8)));
	struct inode inode __attribute__((aligned(8)));
	struct file_operations operations __attribute__((aligned(8)));
};

BPF_ARRAY(scratch, struct scratch, 1);

static __always_inline void read_operations(struct file_operations *operations,
					    struct files_operations *to)
{
	to->release = LOAD(file_operations, operations, release);
	to->read_iter = LOAD(file_operations, operations, read_iter);
	to->read = LOAD(file_operations, operations, read);
	to->write = LOAD(file_operations, operations, write);
	to->poll = LOAD(file_operations, operations, poll);
	to->open = LOAD(file_operations, operations, open);
	to->unlocked_ioctl = LOAD(file_operations, operations, unlocked_ioctl);
	to->iterate_shared = LOAD(file_operations, operations, iterate_shared);
	to->show_fdinfo = LOAD(file_operations, operations, show_fdinfo);
}

static __always_inline __s64 reference_count(struct file *file)
{
	/* "fs: add file_ref" (6.13): stored as references minus one. */
	if (PRESENT(file, f_ref))
		return LOAD_AS(file, file, f_ref, __s64) + 1 - ITERATOR_REFERENCES;
	return LOAD_AS(file___atomic_count, file, f_count, __s64) - ITERATOR_REFERENCES;
}

static __always_inline __u32 is_cloexec(void *task, __u32 fd)
{
	void *files = (void *)READ(task_struct, task, files);
	void *fdt = (void *)READ(files_struct, files, fdt);
	__u64 bits = READ(fdtable, fdt, close_on_exec);

	return READ_AT(__u8, bits + fd / 8) >> (fd % 8) & 1;
}

static __always_inline void read_owner(void *file, struct file *copy, struct files_record *e)
{
	void *owner, *pid;

	/* "file: reclaim 24 bytes from f_owner" (6.12) made it a pointer. */
	if (PRESENT(file___embedded_owner, f_owner.pid))
		owner = ADDRESS(file___embedded_owner, file, f_owner);
	else
		owner = (void *)LOAD(file, copy, f_owner);
	if (!owner)
		return;
	pid = (void *)READ(fown_struct, owner, pid);
	e->owner_pid = pid_number(pid, reader_pid_level());
	e->owner_type = READ(fown_struct, owner, pid_type);
	e->owner_uid = READ_AS(fown_struct, owner, uid, __u32);
	e->owner_euid = READ_AS(fown_struct, owner, euid, __u32);
	e->owner_signum = READ(fown_struct, owner, signum);
}

static __always_inline void read_inode(struct inode *inode, struct files_record *e)
{
	void *sb = (void *)LOAD(inode, inode, i_sb);
	void *type = (void *)READ(super_block, sb, s_type);

	e->ino = LOAD(inode, inode, i_ino);
	e->mode = LOAD(inode, inode, i_mode);
	e->nlink = LOAD(inode, inode, i_nlink);
	e->rdev = LOAD(inode, inode, i_rdev);
	e->i_size = LOAD(inode, inode, i_size);
	e->has_locks = LOAD(inode, inode, i_flctx) != 0;
	e->dev = READ(super_block, sb, s_dev);
	e->sb_magic = READ(super_block, sb, s_magic);
	bpf_probe_read_kernel_str(e->fs_type, sizeof(e->fs_type),
				  (void *)READ(file_system_type, type, name));
}

BPF_ITER(task_file)
{
	void *task = ctx->task, *file = ctx->file, *dentry;
	struct files_record e = {};
	struct scratch *buffer;
	int zero = 0;

	if (!task || !file)
		return 0;
	buffer = scratch.lookup(&zero);
	if (!buffer)
		return 0;
	bpf_probe_read_kernel(&buffer->file, sizeof(buffer->file), file);
	e.fd = ctx->fd;
	e.cloexec = is_cloexec(task, e.fd);
	e.file = (__u64)file;
	e.f_count = reference_count(&buffer->file);
	e.f_mode = LOAD(file, &buffer->file, f_mode);
	e.f_flags = LOAD(file, &buffer->file, f_flags);
	e.f_pos = LOAD(file, &buffer->file, f_pos);
	e.private_data = LOAD(file, &buffer->file, private_data);
	e.f_op = LOAD(file, &buffer->file, f_op);
	e.inode = LOAD(file, &buffer->file, f_inode);
	bpf_probe_read_kernel(&buffer->operations, sizeof(buffer->operations), (void *)e.f_op);
	read_operations(&buffer->operations, &e.operations);
	read_owner(file, &buffer->file, &e);
	bpf_probe_read_kernel(&buffer->inode, sizeof(buffer->inode), (void *)e.inode);
	read_inode(&buffer->inode, &e);
	if (e.sb_magic == ANON_INODE_FS_MAGIC) {
		dentry = (void *)LOAD(file, &buffer->file, f_path.dentry);
		bpf_probe_read_kernel_str(e.anon_name, sizeof(e.anon_name),
					  (void *)READ(dentry, dentry, d_name.name));
	}
	bpf_seq_write(ctx->meta->seq, &e, sizeof(e));
	return 0;
}

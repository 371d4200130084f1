/* Iterator over the memory areas of one task (limited by the link). Idempotent. */
#include "read.h"
#include "areas.h"

BPF_ITER(task_vma)
{
	void *task = ctx->task, *area = ctx->vma;
	struct areas_record e = {};
	void *file, *inode, *sb, *operations, *name;

	if (!task || !area)
		return 0;
	e.start = READ(vm_area_struct, area, vm_start);
	e.end = READ(vm_area_struct, area, vm_end);
	e.flags = READ_AS(vm_area_struct, area, vm_flags, __u64);
	e.pgoff = READ(vm_area_struct, area, vm_pgoff);
	e.anon_vma = READ(vm_area_struct, area, anon_vma);
	e.policy = READ(vm_area_struct, area, vm_policy);
	e.userfaultfd = READ(vm_area_struct, area, vm_userfaultfd_ctx.ctx);
	operations = (void *)READ(vm_area_struct, area, vm_ops);
	e.vm_ops = (__u64)operations;
	if (operations)
		e.fault = READ(vm_operations_struct, operations, fault);
	file = (void *)READ(vm_area_struct, area, vm_file);
	e.file = (__u64)file;
	if (file) {
		inode = (void *)READ(file, file, f_inode);
		sb = (void *)READ(inode, inode, i_sb);
		e.ino = READ(inode, inode, i_ino);
		e.dev = READ(super_block, sb, s_dev);
	}
	name = (void *)READ(vm_area_struct, area, anon_name);
	if (!name) {
		bpf_seq_write(ctx->meta->seq, &e, AREAS_SHORT_BYTES);
		return 0;
	}
	e.has_name = 1;
	bpf_probe_read_kernel_str(e.anon_name, sizeof(e.anon_name),
				  ADDRESS(anon_vma_name, name, name));
	bpf_seq_write(ctx->meta->seq, &e, sizeof(e));
	return 0;
}

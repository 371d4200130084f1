/*
 * The part of the iterator over tasks that reads an mm_struct.
 */
#ifndef CKPT_TASKS_MM_H
#define CKPT_TASKS_MM_H

#include "tasks_walk.bpf.h"

static __always_inline __u32 inode_device(void *inode)
{
	void *sb = (void *)READ(inode, inode, i_sb);

	return READ(super_block, sb, s_dev);
}

static __always_inline void read_exe(void *mm, struct tasks_mm *e)
{
	void *exe = (void *)READ(mm_struct, mm, exe_file);
	void *inode = (void *)READ(file, exe, f_inode);

	e->exe = (__u64)exe;
	e->exe_ino = READ(inode, inode, i_ino);
	e->exe_dev = inode_device(inode);
}

static __always_inline void emit_mm(struct walk *w, void *mm, struct tasks_mm *e)
{
	void *ldt = (void *)READ(mm_struct, mm, context.ldt);

	BEGIN(*e, TASKS_MM);
	e->mm = (__u64)mm;
	e->mm_users = READ_AS(mm_struct, mm, mm_users, __u32);
	e->mm_count = READ_AS(mm_struct, mm, mm_count, __u32);
	e->map_count = READ(mm_struct, mm, map_count);
	e->membarrier_state = READ_AS(mm_struct, mm, membarrier_state, __u32);
	e->pkey_map = READ(mm_struct, mm, context.pkey_allocation_map);
	e->ldt_entries = READ(ldt_struct, ldt, nr_entries);
	e->start_code = READ(mm_struct, mm, start_code);
	e->end_code = READ(mm_struct, mm, end_code);
	e->start_data = READ(mm_struct, mm, start_data);
	e->end_data = READ(mm_struct, mm, end_data);
	e->start_brk = READ(mm_struct, mm, start_brk);
	e->brk = READ(mm_struct, mm, brk);
	e->start_stack = READ(mm_struct, mm, start_stack);
	e->arg_start = READ(mm_struct, mm, arg_start);
	e->arg_end = READ(mm_struct, mm, arg_end);
	e->env_start = READ(mm_struct, mm, env_start);
	e->env_end = READ(mm_struct, mm, env_end);
	e->flags = READ_AS(mm_struct, mm, flags, __u64);
	e->def_flags = READ(mm_struct, mm, def_flags);
	e->total_vm = READ(mm_struct, mm, total_vm);
	e->locked_vm = READ(mm_struct, mm, locked_vm);
	e->vdso = READ(mm_struct, mm, context.vdso);
	e->notifier = READ(mm_struct, mm, notifier_subscriptions);
	read_exe(mm, e);
	EMIT(w, *e);
}

/* Slots of the mm's table of AIO contexts; those beyond `used` are not its own. */
static __always_inline void emit_aio(struct walk *w, void *mm, struct tasks_bytes *e)
{
	void *table = (void *)READ(mm_struct, mm, ioctx_table);

	if (table)
		EMIT_BYTES(w, TASKS_AIO, ADDRESS(kioctx_table, table, table),
			   TASKS_AIO_SLOTS * 8, READ(kioctx_table, table, nr) * 8, e);
}

/* The kernel allocates the table in whole pages, so the first page can be read entirely. */
static __always_inline void emit_ldt(struct walk *w, void *mm, struct tasks_bytes *e)
{
	void *ldt = (void *)READ(mm_struct, mm, context.ldt);
	void *entries;

	if (!ldt)
		return;
	entries = (void *)READ(ldt_struct, ldt, entries);
	EMIT_BYTES(w, TASKS_LDT, entries, TASKS_LDT_BYTES,
		   READ(ldt_struct, ldt, nr_entries) * 8, e);
}

static __always_inline void emit_memory(struct walk *w, union any_record *record)
{
	void *task = w->task, *leader = w->leader;
	void *mm = (void *)LOAD(task_struct, w->copy, mm);

	if (!mm || (task != leader && READ(task_struct, leader, mm)))
		return;
	emit_mm(w, mm, &record->mm);
	EMIT_BYTES(w, TASKS_AUXV, ADDRESS(mm_struct, mm, saved_auxv),
		   MEMBER_BYTES(mm_struct, saved_auxv), MEMBER_BYTES(mm_struct, saved_auxv),
		   &record->bytes);
	emit_aio(w, mm, &record->bytes);
	emit_ldt(w, mm, &record->bytes);
}

#endif

/* GDT TLS entries of each thread, and the LDT of the process. */
#include "selfcheck_threads.h"
#include <asm/ldt.h>

static void describe(struct user_desc *d, unsigned entry, unsigned base)
{
	memset(d, 0, sizeof(*d));
	d->entry_number = entry;
	d->base_addr = base;
	d->limit = 0xfffff;
	d->seg_32bit = 1;
	d->limit_in_pages = 1;
	d->useable = 1;
}

/* 64-bit code reaches these calls by int 0x80 only (arch/x86/entry/syscalls/syscall_32.tbl). */
#define I386_SET_THREAD_AREA 243
#define I386_GET_THREAD_AREA 244

static struct user_desc *low_desc; /* below 4 GiB, one for each worker */

static long thread_area(long nr, int index, struct user_desc *d)
{
	long result;

	low_desc[index] = *d;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(nr), "b"(&low_desc[index])
			 : "memory", "r8", "r9", "r10", "r11");
	*d = low_desc[index];
	return result;
}

static void build(struct worker *w)
{
	struct user_desc d;

	for (unsigned slot = 0; slot < 3; slot++) {
		describe(&d, 12 + slot, 0x10000u * (unsigned)(w->index + 1) + slot * 0x100);
		if (slot != 1 || w->index)
			REQUIRE(!thread_area(I386_SET_THREAD_AREA, w->index, &d));
	}
	__asm__ volatile("mov %0, %%gs" ::"r"((unsigned short)(12 << 3 | 3)));
}

static void check(struct worker *w)
{
	struct user_desc d = { 0 };
	unsigned short gs;

	__asm__ volatile("mov %%gs, %0" : "=r"(gs));
	check_int("gs selector", 12 << 3 | 3, gs);
	for (unsigned slot = 0; slot < 3; slot++) {
		d.entry_number = 12 + slot;
		check_int("get_thread_area", 0, thread_area(I386_GET_THREAD_AREA, w->index, &d));
		if (slot != 1 || w->index) {
			check_int("TLS base", 0x10000 * (w->index + 1) + slot * 0x100, d.base_addr);
			check_int("TLS limit", 0xfffff, d.limit);
			check_int("TLS useable", 1, d.useable);
		} else {
			check_int("empty TLS entry", 1, d.seg_not_present);
		}
	}
}

static uint32_t read_by_ldt(unsigned entry)
{
	uint32_t value;
	unsigned short selector = (unsigned short)(entry << 3 | 7);

	__asm__ volatile("mov %1, %%gs\n\tmov %%gs:0, %0" : "=&r"(value) : "r"(selector));
	return value;
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 };
	char before[8192], after[8192];
	struct user_desc d;
	uint32_t *low;
	long len;

	selfcheck_begin(argc, argv);
	low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	REQUIRE(low != MAP_FAILED);
	*low = 0x51deb00b;
	low_desc = (struct user_desc *)(low + 256);
	describe(&d, 0, (unsigned)(uintptr_t)low);
	REQUIRE(!syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)));
	describe(&d, 37, (unsigned)(uintptr_t)low + 8);
	d.read_exec_only = 1;
	REQUIRE(!syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)));
	len = syscall(SYS_modify_ldt, 0, before, sizeof(before));
	REQUIRE(len >= 38 * 8);
	run_workers(workers, 2, build, check);
	check_int("length of the LDT", len, syscall(SYS_modify_ldt, 0, after, sizeof(after)));
	check_mem("entry 0 of the LDT", before, after, 5);
	check_mem("entry 37 of the LDT", before + 37 * 8, after + 37 * 8, 5);
	check_int("word read through the LDT", 0x51deb00b, read_by_ldt(0));
	return selfcheck_end();
}

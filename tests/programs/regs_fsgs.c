/* FS and GS bases, set by arch_prctl and by wrgsbase, different in each thread. */
#include "selfcheck_threads.h"
#include <asm/prctl.h>
#include <sys/auxv.h>

static void build(struct worker *w)
{
	w->data[0] = 0x5eedL + w->index;
	if (w->index == 0) {
		REQUIRE(!syscall(SYS_arch_prctl, ARCH_SET_GS, w->data));
	} else if (w->index == 1) {
		if (getauxval(AT_HWCAP2) & 2)
			__asm__ volatile("wrgsbase %0" ::"r"(w->data));
		else
			REQUIRE(!syscall(SYS_arch_prctl, ARCH_SET_GS, w->data));
	} else {
		/* non-canonical is refused by the kernel; a high user address is not mapped */
		REQUIRE(!syscall(SYS_arch_prctl, ARCH_SET_GS, 0x7fff12345000L));
	}
	REQUIRE(!syscall(SYS_arch_prctl, ARCH_GET_FS, &w->data[1]));
}

static void check(struct worker *w)
{
	long gs = 0, fs = 0, word = 0;

	syscall(SYS_arch_prctl, ARCH_GET_GS, &gs);
	syscall(SYS_arch_prctl, ARCH_GET_FS, &fs);
	check_int("fs base", w->data[1], fs);
	check_int("gs base", w->index < 2 ? (long)w->data : 0x7fff12345000L, gs);
	if (w->index < 2) {
		__asm__ volatile("mov %%gs:0, %0" : "=r"(word));
		check_int("word at gs:0", 0x5eedL + w->index, word);
	}
}

int main(int argc, char **argv)
{
	struct worker workers[3] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 3, build, check);
	return selfcheck_end();
}

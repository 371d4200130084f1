/* cpuid made to fault in one thread (ARCH_SET_CPUID), allowed in another. */
#include "selfcheck_threads.h"
#include <asm/prctl.h>

static void build(struct worker *w)
{
	if (w->index == 0 && syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0))
		skip_cpu("cpuid faulting");
}

static void check(struct worker *w)
{
	check_int("cpuid allowed", w->index != 0, syscall(SYS_arch_prctl, ARCH_GET_CPUID, 0));
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 2, build, check);
	return selfcheck_end();
}

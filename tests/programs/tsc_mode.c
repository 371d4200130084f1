/* rdtsc made to fault in one thread (PR_SET_TSC), allowed in another. */
#include "selfcheck_threads.h"
#include <setjmp.h>

static __thread sigjmp_buf faulted;

static void on_segv(int sig)
{
	(void)sig;
	siglongjmp(faulted, 1);
}

static int rdtsc_faults(void)
{
	if (sigsetjmp(faulted, 1))
		return 1;
	__asm__ volatile("rdtsc" ::: "eax", "edx");
	return 0;
}

static void build(struct worker *w)
{
	if (w->index == 0)
		REQUIRE(!prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
}

static void check(struct worker *w)
{
	int mode = 0;

	prctl(PR_GET_TSC, &mode);
	check_int("TSC mode", w->index == 0 ? PR_TSC_SIGSEGV : PR_TSC_ENABLE, mode);
	check_int("rdtsc faults", w->index == 0, rdtsc_faults());
	prctl(PR_SET_TSC, PR_TSC_ENABLE);
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 };

	selfcheck_begin(argc, argv);
	signal(SIGSEGV, on_segv);
	run_workers(workers, 2, build, check);
	return selfcheck_end();
}

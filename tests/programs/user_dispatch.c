/* Syscall user dispatch of one thread: mode, allowed range and selector. */
#include "selfcheck_threads.h"
#include <linux/prctl.h>

static volatile char selector = 0; /* SYSCALL_DISPATCH_FILTER_ALLOW */
static volatile int caught, caught_nr;

static void on_sys(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	selector = 0;
	caught++;
	caught_nr = info->si_syscall;
}

static void build(struct worker *w)
{
	if (w->index == 0 && prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &selector))
		skip_kernel("syscall user dispatch");
}

static void check(struct worker *w)
{
	if (w->index)
		return;
	selector = 1; /* SYSCALL_DISPATCH_FILTER_BLOCK */
	syscall(SYS_getppid);
	selector = 0;
	check_int("calls caught", 1, caught);
	check_int("number of the caught call", SYS_getppid, caught_nr);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = on_sys, .sa_flags = SA_SIGINFO };
	struct worker workers[2] = { 0 };

	selfcheck_begin(argc, argv);
	sigaction(SIGSYS, &action, 0);
	run_workers(workers, 2, build, check);
	return selfcheck_end();
}

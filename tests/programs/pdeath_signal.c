/* The parent-death signal of each thread; being restored delivers none. */
#include "selfcheck_threads.h"

static const int signals[] = { SIGUSR1, 64, 0 };

static void build(struct worker *w)
{
	if (signals[w->index])
		REQUIRE(!prctl(PR_SET_PDEATHSIG, signals[w->index]));
}

static void check(struct worker *w)
{
	int got = -1;

	prctl(PR_GET_PDEATHSIG, &got);
	check_int("pdeath signal", signals[w->index], got);
}

int main(int argc, char **argv)
{
	struct worker workers[3] = { 0 };
	sigset_t set, pending;

	selfcheck_begin(argc, argv);
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, 0);
	REQUIRE(!prctl(PR_SET_PDEATHSIG, SIGUSR2));
	run_workers(workers, 3, build, check);
	sigpending(&pending);
	check_int("SIGUSR1 pending", 0, sigismember(&pending, SIGUSR1));
	check_int("SIGUSR2 pending", 0, sigismember(&pending, SIGUSR2));
	check_int("signal 64 pending", 0, sigismember(&pending, 64));
	return selfcheck_end();
}

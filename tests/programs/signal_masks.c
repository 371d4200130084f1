/* A different signal mask in each thread, real-time signals included. */
#include "selfcheck_threads.h"

static void mask_of(int index, sigset_t *set)
{
	sigemptyset(set);
	for (int sig = 1; sig < 65; sig++)
		if ((sig * 7 + index) % 3 == 0 && sig != 32 && sig != 33)
			sigaddset(set, sig);
	sigdelset(set, SIGKILL);
	sigdelset(set, SIGSTOP);
}

static void build(struct worker *w)
{
	sigset_t set;

	mask_of(w->index, &set);
	REQUIRE(!pthread_sigmask(SIG_SETMASK, &set, 0));
}

static void check(struct worker *w)
{
	unsigned long expected = 0, got = 0;
	sigset_t set;

	mask_of(w->index, &set);
	memcpy(&expected, &set, 8);
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0, &got, 8L);
	check_int("signal mask", (long)expected, (long)got);
}

int main(int argc, char **argv)
{
	struct worker workers[4] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 4, build, check);
	return selfcheck_end();
}

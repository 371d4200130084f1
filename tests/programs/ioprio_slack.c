/* I/O priority and timer slack of each thread. */
#include "selfcheck_threads.h"

#define IOPRIO(class, data) ((class) << 13 | (data))

static const int ioprios[] = { IOPRIO(2, 7), IOPRIO(1, 3), IOPRIO(3, 0), 0 };
static const long slacks[] = { 1, 123456, 7000000, 50000 };

static void build(struct worker *w)
{
	if (ioprios[w->index])
		REQUIRE(!syscall(SYS_ioprio_set, 1, 0, ioprios[w->index]));
	w->data[0] = syscall(SYS_ioprio_get, 1, 0);
	REQUIRE(!prctl(PR_SET_TIMERSLACK, slacks[w->index]));
}

static void check(struct worker *w)
{
	check_int("ioprio", w->data[0], syscall(SYS_ioprio_get, 1, 0));
	check_int("timer slack", slacks[w->index], prctl(PR_GET_TIMERSLACK));
}

int main(int argc, char **argv)
{
	struct worker workers[4] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 4, build, check);
	return selfcheck_end();
}

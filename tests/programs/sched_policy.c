/* Scheduling policy, priority, nice and reset-on-fork of each thread. */
#include "selfcheck_threads.h"
#include <sched.h>
#include <sys/resource.h>

static const struct {
	int policy, priority, nice;
} plans[] = {
	{ SCHED_OTHER, 0, 0 },	 { SCHED_OTHER, 0, 7 },	  { SCHED_OTHER, 0, -11 },
	{ SCHED_BATCH, 0, 3 },	 { SCHED_IDLE, 0, 0 },	  { SCHED_FIFO, 3, 0 },
	{ SCHED_RR, 2, 0 },	 { SCHED_RR | SCHED_RESET_ON_FORK, 1, 0 },
	{ SCHED_OTHER | SCHED_RESET_ON_FORK, 0, 0 },
};
#define COUNT ((int)(sizeof(plans) / sizeof(plans[0])))

static void build(struct worker *w)
{
	struct sched_param param = { .sched_priority = plans[w->index].priority };

	REQUIRE(!setpriority(PRIO_PROCESS, (unsigned)w->tid, plans[w->index].nice));
	REQUIRE(!sched_setscheduler(0, plans[w->index].policy, &param));
}

static void check(struct worker *w)
{
	struct sched_param param = { 0 };

	check_int("policy", plans[w->index].policy, sched_getscheduler(0));
	sched_getparam(0, &param);
	check_int("priority", plans[w->index].priority, param.sched_priority);
	errno = 0;
	check_int("nice", plans[w->index].nice, getpriority(PRIO_PROCESS, (unsigned)w->tid));
}

int main(int argc, char **argv)
{
	struct worker workers[COUNT] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, COUNT, build, check);
	return selfcheck_end();
}

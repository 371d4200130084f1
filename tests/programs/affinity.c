/* CPU affinity of each thread. */
#include "selfcheck_threads.h"
#include <sched.h>

static void mask_of(int index, cpu_set_t *set)
{
	cpu_set_t allowed;

	CPU_ZERO(set);
	sched_getaffinity(getpid(), sizeof(allowed), &allowed);
	for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && (index == 2 || seen++ == index))
			CPU_SET(cpu, set);
}

static void build(struct worker *w)
{
	cpu_set_t set;

	mask_of(w->index, &set);
	REQUIRE(!sched_setaffinity(0, sizeof(set), &set));
}

static void check(struct worker *w)
{
	cpu_set_t want, got;

	mask_of(w->index, &want);
	sched_getaffinity(0, sizeof(got), &got);
	check_mem("affinity", &want, &got, sizeof(want));
}

int main(int argc, char **argv)
{
	struct worker workers[3] = { 0 };

	selfcheck_begin(argc, argv);
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		skip_cpu("second processor");
	run_workers(workers, 3, build, check);
	return selfcheck_end();
}

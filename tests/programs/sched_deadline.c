/* SCHED_DEADLINE parameters of one thread, where the kernel admits it. */
#include "selfcheck_threads.h"

struct deadline_attr { /* include/uapi/linux/sched/types.h */
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

static const struct deadline_attr wanted = {
	.size = sizeof(struct deadline_attr), .policy = 6, .runtime = 2000000,
	.deadline = 50000000, .period = 100000000,
};

static void build(struct worker *w)
{
	(void)w;
	if (syscall(SYS_sched_setattr, 0, &wanted, 0))
		skip_kernel("SCHED_DEADLINE admission");
}

static void check(struct worker *w)
{
	struct deadline_attr got = { 0 };

	(void)w;
	check_ok("sched_getattr", syscall(SYS_sched_getattr, 0, &got, sizeof(got), 0));
	check_int("policy", 6, got.policy);
	check_int("runtime", (long)wanted.runtime, (long)got.runtime);
	check_int("deadline", (long)wanted.deadline, (long)got.deadline);
	check_int("period", (long)wanted.period, (long)got.period);
}

int main(int argc, char **argv)
{
	struct worker workers[1] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 1, build, check);
	return selfcheck_end();
}

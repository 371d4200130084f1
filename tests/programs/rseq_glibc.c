/* glibc's rseq registration of each thread lives on: the CPU number is kept up to date. */
#include "selfcheck_threads.h"
#include <sched.h>
#include <sys/rseq.h>

static struct rseq *own_rseq(void)
{
	return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void build(struct worker *w)
{
	w->data[0] = (long)own_rseq();
}

static void check(struct worker *w)
{
	unsigned size = __rseq_size < 32 ? 32 : __rseq_size;
	unsigned cpu = 99;
	cpu_set_t set;

	check_int("rseq area", w->data[0], (long)own_rseq());
	for (int i = 0; i < 2; i++) {
		CPU_ZERO(&set);
		CPU_SET(i, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			continue;
		syscall(SYS_getcpu, &cpu, 0, 0);
		check_int("cpu_id of rseq", cpu, (int)own_rseq()->cpu_id);
	}
	check_errno("registering a second time", EBUSY,
		    syscall(SYS_rseq, own_rseq(), size, 0, RSEQ_SIG));
	check_errno("unregistering with another signature", EPERM,
		    syscall(SYS_rseq, own_rseq(), size, 1, 0x1234));
	check_int("unregistering", 0, syscall(SYS_rseq, own_rseq(), size, 1, RSEQ_SIG));
}

int main(int argc, char **argv)
{
	struct worker workers[3] = { 0 };

	selfcheck_begin(argc, argv);
	if (!__rseq_size)
		skip_kernel("rseq");
	run_workers(workers, 3, build, check);
	return selfcheck_end();
}

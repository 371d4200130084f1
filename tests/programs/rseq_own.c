/* An rseq area, signature and length of the program's own, in one thread; none in another. */
#include "selfcheck_threads.h"
#include <sys/rseq.h>

#define OWN_SIG 0x0badcafe

static struct {
	struct rseq area;
	char more[64];
} own __attribute__((aligned(64)));

static void build(struct worker *w)
{
	void *old = (char *)__builtin_thread_pointer() + __rseq_offset;

	REQUIRE(!syscall(SYS_rseq, old, 32, 1, RSEQ_SIG));
	if (w->index == 0)
		REQUIRE(!syscall(SYS_rseq, &own.area, 32, 0, OWN_SIG));
}

static void check(struct worker *w)
{
	void *old = (char *)__builtin_thread_pointer() + __rseq_offset;

	if (w->index == 0) {
		check_errno("unregistering with glibc's signature", EPERM,
			    syscall(SYS_rseq, &own.area, 32, 1, RSEQ_SIG));
		check_int("unregistering the own area", 0, syscall(SYS_rseq, &own.area, 32, 1, OWN_SIG));
	} else {
		check_int("registering where there was none", 0, syscall(SYS_rseq, old, 32, 0, RSEQ_SIG));
	}
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 };

	selfcheck_begin(argc, argv);
	if (!__rseq_size)
		skip_kernel("rseq");
	run_workers(workers, 2, build, check);
	return selfcheck_end();
}

/* NUMA policy of areas, and of each thread. */
#include "selfcheck_threads.h"

#define MPOL_PREFERRED 1
#define MPOL_BIND 2
#define MPOL_INTERLEAVE 3
#define MPOL_LOCAL 4
#define MPOL_F_ADDR 2
#define SIZE 65536

static const int policies[] = { MPOL_BIND, MPOL_INTERLEAVE, MPOL_PREFERRED, MPOL_LOCAL };

static void build(struct worker *w)
{
	unsigned long node = 1;
	int local = policies[w->index] == MPOL_LOCAL;

	REQUIRE(!syscall(SYS_set_mempolicy, policies[w->index], local ? 0 : &node, local ? 0 : 64));
}

static void check(struct worker *w)
{
	unsigned long nodes = 0;
	int mode = -1;

	check_int("get_mempolicy", 0, syscall(SYS_get_mempolicy, &mode, &nodes, 64, 0, 0));
	check_int("policy of the thread", policies[w->index], mode);
	if (mode != MPOL_LOCAL)
		check_int("nodes of the thread", 1, (long)nodes);
}

int main(int argc, char **argv)
{
	struct worker workers[4] = { 0 };
	unsigned long node = 1;
	char *areas[5];
	int mode = -1;

	selfcheck_begin(argc, argv);
	if (syscall(SYS_get_mempolicy, &mode, 0, 0, 0, 0))
		skip_kernel("NUMA policy");
	for (int i = 0; i < 5; i++) {
		areas[i] = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		areas[i][0] = 1;
		if (i < 3)
			REQUIRE(!syscall(SYS_mbind, areas[i], SIZE, policies[i], &node, 64, 0));
	}
	run_workers(workers, 4, build, check);
	for (int i = 0; i < 4; i++) {
		check_int("get_mempolicy", 0,
			  syscall(SYS_get_mempolicy, &mode, 0, 0, areas[i], MPOL_F_ADDR));
		check_int("policy of the area", i < 3 ? policies[i] : 0, mode);
	}
	return selfcheck_end();
}

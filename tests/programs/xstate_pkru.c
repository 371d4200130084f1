/* PKRU of each thread and the key of an area. */
#include "selfcheck_threads.h"

static int key;
static volatile char *area;

static void build(struct worker *w)
{
	REQUIRE(!pkey_set(key, w->index % 2 ? PKEY_DISABLE_WRITE : PKEY_DISABLE_ACCESS));
}

static void check(struct worker *w)
{
	check_int("pkey rights", w->index % 2 ? PKEY_DISABLE_WRITE : PKEY_DISABLE_ACCESS, pkey_get(key));
	if (w->index % 2)
		check_int("byte behind the key", 77, area[0]);
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 };

	selfcheck_begin(argc, argv);
	key = pkey_alloc(0, 0);
	if (key < 0)
		skip_cpu("pku");
	area = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(area != MAP_FAILED);
	area[0] = 77;
	REQUIRE(!pkey_mprotect((void *)area, 4096, PROT_READ | PROT_WRITE, key));
	run_workers(workers, 2, build, check);
	check_ok("pkey_free: the key is still allocated", pkey_free(key));
	return selfcheck_end();
}

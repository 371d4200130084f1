/* Thread ids and names, and a clone with no name of its own. */
#include "selfcheck_threads.h"

static void build(struct worker *w)
{
	char name[16];

	snprintf(name, sizeof(name), "worker (%d) \n", w->index);
	if (w->index < 4)
		REQUIRE(!prctl(PR_SET_NAME, name));
}

static void check(struct worker *w)
{
	char expected[16], got[16] = "";

	snprintf(expected, sizeof(expected), "worker (%d) \n", w->index);
	prctl(PR_GET_NAME, got);
	check_str("name", w->index < 4 ? expected : "main name", got);
}

int main(int argc, char **argv)
{
	struct worker workers[6] = { 0 };

	selfcheck_begin(argc, argv);
	prctl(PR_SET_NAME, "main name");
	run_workers(workers, 6, build, check);
	check_int("main tid is the pid", getpid(), gettid());
	return selfcheck_end();
}

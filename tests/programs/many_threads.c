/* Two hundred threads, each with its own stack contents, name and thread-local word. */
#include "selfcheck_threads.h"

#define COUNT 200

static __thread long local_word;

static void build(struct worker *w)
{
	char name[16];

	local_word = w->tid * 3L;
	for (int i = 0; i < 32; i++)
		w->data[i] = w->tid * 1000L + i;
	snprintf(name, sizeof(name), "many-%d", w->index);
	REQUIRE(!prctl(PR_SET_NAME, name));
}

static void check(struct worker *w)
{
	char expected[16], got[16];

	check_int("thread-local word", w->tid * 3L, local_word);
	for (int i = 0; i < 32; i++)
		check_int("data", w->tid * 1000L + i, w->data[i]);
	snprintf(expected, sizeof(expected), "many-%d", w->index);
	prctl(PR_GET_NAME, got);
	check_str("name", expected, got);
}

int main(int argc, char **argv)
{
	static struct worker workers[COUNT];

	selfcheck_begin(argc, argv);
	run_workers(workers, COUNT, build, check);
	return selfcheck_end();
}

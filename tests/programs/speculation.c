/* Speculation controls of each thread. */
#include "selfcheck_threads.h"

static void build(struct worker *w)
{
	for (int which = 0; which < 2; which++) {
		long now = prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0);

		if (now > 0 && (now & PR_SPEC_PRCTL) && w->index)
			REQUIRE(!prctl(PR_SET_SPECULATION_CTRL, which,
				       w->index == 1 ? PR_SPEC_DISABLE : PR_SPEC_FORCE_DISABLE, 0, 0));
		w->data[which] = prctl(PR_GET_SPECULATION_CTRL, which, 0, 0, 0);
	}
	w->data[2] = !!((w->data[0] | w->data[1]) & PR_SPEC_PRCTL);
}

static void check(struct worker *w)
{
	check_int("store bypass", w->data[0], prctl(PR_GET_SPECULATION_CTRL, 0, 0, 0, 0));
	check_int("indirect branch", w->data[1], prctl(PR_GET_SPECULATION_CTRL, 1, 0, 0, 0));
}

int main(int argc, char **argv)
{
	struct worker workers[3] = { 0 };

	selfcheck_begin(argc, argv);
	if (!((prctl(PR_GET_SPECULATION_CTRL, 0, 0, 0, 0) | prctl(PR_GET_SPECULATION_CTRL, 1, 0, 0, 0)) &
	      PR_SPEC_PRCTL))
		skip_cpu("speculation control by prctl");
	run_workers(workers, 3, build, check);
	return selfcheck_end();
}

/* Securebits (with locks), keep-capabilities and no_new_privs of each thread. */
#include "selfcheck_proc.h"
#include "selfcheck_threads.h"
#include <linux/securebits.h>

static const long bits[] = { SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP,
			     SECBIT_KEEP_CAPS, SECBIT_NO_CAP_AMBIENT_RAISE, 0 };

static void build(struct worker *w)
{
	if (bits[w->index])
		REQUIRE(!prctl(PR_SET_SECUREBITS, bits[w->index]));
	if (w->index == 2)
		REQUIRE(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static void check(struct worker *w)
{
	char text[32];

	check_int("securebits", bits[w->index], prctl(PR_GET_SECUREBITS));
	check_int("keepcaps", w->index == 1, prctl(PR_GET_KEEPCAPS));
	check_int("no_new_privs", w->index == 2, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	proc_thread_status(w->tid, "NoNewPrivs", text, sizeof(text));
	check_str("NoNewPrivs", w->index == 2 ? "1" : "0", text);
}

int main(int argc, char **argv)
{
	struct worker workers[4] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 4, build, check);
	return selfcheck_end();
}

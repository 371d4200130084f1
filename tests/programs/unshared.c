/* A thread with a working folder, umask and descriptor table of its own. */
#include "selfcheck_threads.h"
#include <sched.h>

static int only_here;

static void build(struct worker *w)
{
	char path[600];

	if (w->index)
		return;
	REQUIRE(!unshare(CLONE_FS | CLONE_FILES));
	selfcheck_path(path, sizeof(path), "own folder");
	REQUIRE(!mkdir(path, 0777) && !chdir(path));
	umask(0123);
	only_here = open("/dev/zero", O_RDONLY);
	REQUIRE(only_here >= 0 && dup2(only_here, 50) == 50);
}

static void check(struct worker *w)
{
	char got[600] = "", expected[600];

	selfcheck_path(expected, sizeof(expected), w->index ? "" : "own folder");
	if (w->index)
		expected[strlen(expected) - 1] = 0;
	check_str("working folder", expected, getcwd(got, sizeof(got)) ? got : "(none)");
	check_int("fd 50 open", w->index == 0, fcntl(50, F_GETFD) >= 0);
	if (w->index == 0)
		check_int("umask", 0123, umask(0123));
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 2, build, check);
	check_int("umask of the others", 022, umask(022));
	return selfcheck_end();
}

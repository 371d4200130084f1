/* User and group ids and supplementary groups, different in each thread (raw calls, no setxid). */
#include "selfcheck_proc.h"
#include "selfcheck_threads.h"

static void build(struct worker *w)
{
	unsigned groups[] = { 7, 4000u + (unsigned)w->index, 100000 };

	if (w->index == 3)
		return;
	REQUIRE(!syscall(SYS_setgroups, w->index, groups));
	REQUIRE(!syscall(SYS_setresgid, 1001, 1002 + w->index, 1003));
	REQUIRE(!syscall(SYS_setresuid, 2001, w->index == 1 ? 0 : 2002, 2003 + w->index));
	if (w->index == 1)
		syscall(SYS_setfsuid, 2044);
}

static void check(struct worker *w)
{
	unsigned ids[3], groups[8];
	char text[128], expected[128];

	if (w->index == 3) {
		check_int("untouched uid", 0, syscall(SYS_getuid));
		return;
	}
	syscall(SYS_getresuid, &ids[0], &ids[1], &ids[2]);
	check_int("ruid", 2001, ids[0]);
	check_int("euid", w->index == 1 ? 0 : 2002, ids[1]);
	check_int("suid", 2003 + w->index, ids[2]);
	syscall(SYS_getresgid, &ids[0], &ids[1], &ids[2]);
	check_int("rgid", 1001, ids[0]);
	check_int("egid", 1002 + w->index, ids[1]);
	check_int("sgid", 1003, ids[2]);
	check_int("number of groups", w->index, syscall(SYS_getgroups, 8, groups));
	proc_thread_status(w->tid, "Uid", text, sizeof(text));
	snprintf(expected, sizeof(expected), "2001\t%d\t%d\t%d", w->index == 1 ? 0 : 2002,
		 2003 + w->index, w->index == 1 ? 2044 : 2002);
	check_str("Uid line", expected, text);
}

int main(int argc, char **argv)
{
	struct worker workers[4] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 4, build, check);
	return selfcheck_end();
}

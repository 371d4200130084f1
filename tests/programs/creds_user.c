/* A whole process of an ordinary user, without any capability. */
#include "selfcheck_proc.h"
#include <grp.h>

int main(int argc, char **argv)
{
	gid_t groups[] = { 4001, 4002 };
	char text[64];

	selfcheck_begin(argc, argv);
	REQUIRE(!setgroups(2, groups) && !setresgid(4000, 4000, 4000) && !setresuid(4000, 4000, 4000));
	selfcheck_park();
	check_int("uid", 4000, getuid());
	check_int("euid", 4000, geteuid());
	check_int("gid", 4000, getgid());
	check_int("groups", 2, getgroups(0, 0));
	proc_thread_status(getpid(), "CapEff", text, sizeof(text));
	check_str("CapEff", "0000000000000000", text);
	check_int("dumpable", 0, prctl(PR_GET_DUMPABLE));
	check_errno("becoming root", EPERM, setuid(0));
	return selfcheck_end();
}

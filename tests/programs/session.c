/* Session and process group: a leader stays a leader. argument: "session", "group" or "none". */
#include "selfcheck.h"

int main(int argc, char **argv)
{
	const char *kind;

	selfcheck_begin(argc, argv);
	kind = argc > 2 ? argv[2] : "none";
	if (!strcmp(kind, "session"))
		REQUIRE(setsid() == getpid());
	else if (!strcmp(kind, "group"))
		REQUIRE(!setpgid(0, 0));
	selfcheck_park();
	if (strcmp(kind, "none"))
		check_int("process group", getpid(), getpgid(0));
	else
		check_int("is no group leader", 0, getpgid(0) == getpid());
	if (!strcmp(kind, "session"))
		check_int("session", getpid(), getsid(0));
	else
		check_int("is no session leader", 0, getsid(0) == getpid());
	return selfcheck_end();
}

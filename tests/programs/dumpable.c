/* A process that made itself undumpable (argument 0) or dumpable although of changed ids (1). */
#include "selfcheck.h"

int main(int argc, char **argv)
{
	int wanted;

	selfcheck_begin(argc, argv);
	wanted = argc > 2 ? atoi(argv[2]) : 0;
	if (wanted)
		REQUIRE(!setresgid(4100, 4100, 4100) && !setresuid(4100, 4100, 4100));
	REQUIRE(!prctl(PR_SET_DUMPABLE, wanted));
	selfcheck_park();
	check_int("dumpable", wanted, prctl(PR_GET_DUMPABLE));
	return selfcheck_end();
}

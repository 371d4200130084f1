/* Switches of the process: subreaper, THP, MDWE, I/O flusher, memory-failure policy. */
#include "selfcheck.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif

int main(int argc, char **argv)
{
	int subreaper = 0, mdwe;
	long flusher;

	selfcheck_begin(argc, argv);
	REQUIRE(!prctl(PR_SET_CHILD_SUBREAPER, 1));
	REQUIRE(!prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	flusher = prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0);
	REQUIRE(!prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0));
	prctl(PR_SET_MDWE, 1, 0, 0, 0);
	mdwe = prctl(PR_GET_MDWE, 0, 0, 0, 0);
	selfcheck_park();
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
	check_int("child subreaper", 1, subreaper);
	check_int("THP disabled", 1, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	check_int("MDWE", mdwe, prctl(PR_GET_MDWE, 0, 0, 0, 0));
	if (mdwe == 1)
		check_int("writable and executable area refused", 1,
			  mmap(0, 4096, PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
				  MAP_FAILED);
	check_int("I/O flusher", flusher, prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0));
	check_int("MCE policy", PR_MCE_KILL_EARLY, prctl(PR_MCE_KILL_GET, 0, 0, 0, 0));
	return selfcheck_end();
}

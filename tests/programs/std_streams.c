/* Run by the harness on its own pipes: streams that lead outside, with dups of them. */
#include "selfcheck_fds.h"

int main(int argc, char **argv)
{
	int high;

	selfcheck_begin(argc, argv);
	high = fcntl(1, F_DUPFD, 100);
	REQUIRE(high >= 100 && fcntl(2, F_GETFD) >= 0);
	put(1, "before\n");
	selfcheck_park();
	check_int("write to fd 1", 6, write(1, "after\n", 6));
	check_int("write to its dup", 4, write(high, "dup\n", 4));
	return selfcheck_end();
}

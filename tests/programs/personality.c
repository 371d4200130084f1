/* Personality flags, with areas that they put where they are. */
#include "selfcheck.h"
#include <sys/personality.h>

int main(int argc, char **argv)
{
	unsigned long wanted = ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT | STICKY_TIMEOUTS;

	selfcheck_begin(argc, argv);
	REQUIRE(personality(wanted) >= 0);
	selfcheck_park();
	check_int("personality", (long)wanted, personality(0xffffffff));
	return selfcheck_end();
}

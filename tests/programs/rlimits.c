/* All sixteen resource limits, soft and hard. */
#include "selfcheck.h"
#include <sys/resource.h>

#define LIMITS 16

int main(int argc, char **argv)
{
	struct rlimit before[LIMITS], now;
	char what[32];

	selfcheck_begin(argc, argv);
	for (int i = 0; i < LIMITS; i++) {
		REQUIRE(!getrlimit(i, &now));
		if (i == RLIMIT_AS || i == RLIMIT_DATA || i == RLIMIT_CPU || i == RLIMIT_FSIZE)
			now.rlim_cur = 1UL << 40; /* was unlimited */
		else if (i == RLIMIT_NOFILE)
			now.rlim_cur = 71, now.rlim_max = 1000;
		else if (i == RLIMIT_STACK)
			now.rlim_cur = 3 << 20;
		else if (i == RLIMIT_MEMLOCK)
			now.rlim_max = now.rlim_cur = now.rlim_cur / 2;
		else if (i == RLIMIT_NPROC || i == RLIMIT_SIGPENDING)
			now.rlim_cur = now.rlim_cur / 2 + 1;
		REQUIRE(!setrlimit(i, &now));
		before[i] = now;
	}
	selfcheck_park();
	for (int i = 0; i < LIMITS; i++) {
		getrlimit(i, &now);
		snprintf(what, sizeof(what), "soft limit %d", i);
		check_int(what, (long)before[i].rlim_cur, (long)now.rlim_cur);
		snprintf(what, sizeof(what), "hard limit %d", i);
		check_int(what, (long)before[i].rlim_max, (long)now.rlim_max);
	}
	return selfcheck_end();
}

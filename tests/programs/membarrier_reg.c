/* Membarrier registrations of the process: those made work, the others are still refused. */
#include "selfcheck.h"
#include <linux/membarrier.h>

#define GET_REGISTRATIONS (1 << 9) /* MEMBARRIER_CMD_GET_REGISTRATIONS, 6.3 */

static long membarrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0);
}

int main(int argc, char **argv)
{
	long before;

	selfcheck_begin(argc, argv);
	REQUIRE(!membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED));
	REQUIRE(!membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED));
	before = membarrier(GET_REGISTRATIONS);
	selfcheck_park();
	check_int("private expedited", 0, membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED));
	check_errno("private expedited sync-core, never registered", EPERM,
		    membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE));
	check_int("registrations", before, membarrier(GET_REGISTRATIONS));
	return selfcheck_end();
}

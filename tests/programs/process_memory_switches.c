/* Switches of the process about its memory: huge pages only where advised, inherited MDWE, KSM. */
#include "selfcheck.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif
#define PR_THP_DISABLE_EXCEPT_ADVISED_FLAG (1 << 1) /* include/uapi/linux/prctl.h, 6.18 */

int main(int argc, char **argv)
{
	int thp, merge, mdwe;

	selfcheck_begin(argc, argv);
	prctl(PR_SET_THP_DISABLE, 1, PR_THP_DISABLE_EXCEPT_ADVISED_FLAG, 0, 0);
	prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
	prctl(PR_SET_MDWE, 3, 0, 0, 0);
	thp = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0);
	merge = prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
	mdwe = prctl(PR_GET_MDWE, 0, 0, 0, 0);
	selfcheck_park();
	check_int("THP mode", thp, prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	check_int("memory merging", merge, prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0));
	check_int("MDWE with no-inherit", mdwe, prctl(PR_GET_MDWE, 0, 0, 0, 0));
	return selfcheck_end();
}

/* A copied page after fork stays private: the restored process can fork and both sides are right. */
#include "selfcheck.h"
#include <sys/wait.h>

#define PAGE 4096

int main(int argc, char **argv)
{
	unsigned char *kept, *wiped, *shared;
	int status = -1;
	pid_t child;

	selfcheck_begin(argc, argv);
	kept = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	wiped = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	shared = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memset(kept, 1, 4 * PAGE);
	memset(wiped, 2, 4 * PAGE);
	memset(shared, 3, 4 * PAGE);
	REQUIRE(!madvise(wiped, 4 * PAGE, MADV_WIPEONFORK));
	selfcheck_park();
	child = fork();
	if (!child) {
		int bad = kept[5] != 1 || wiped[5] != 0 || shared[5] != 3;

		kept[5] = 9;
		shared[6] = 9;
		_exit(bad);
	}
	check_int("waitpid", child, waitpid(child, &status, 0));
	check_int("what the child saw", 0, status);
	check_int("private page", 1, kept[5]);
	check_int("wiped only in the child", 2, wiped[5]);
	check_int("shared page", 9, shared[6]);
	return selfcheck_end();
}

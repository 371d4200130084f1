/* Guard pages: PROT_NONE under a thread's stack, and MADV_GUARD_INSTALL inside an area. */
#include "selfcheck_proc.h"
#include <setjmp.h>

#define PAGE 4096
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

static sigjmp_buf faulted;

static void on_segv(int sig)
{
	(void)sig;
	siglongjmp(faulted, 1);
}

static int touch_faults(volatile unsigned char *p)
{
	if (sigsetjmp(faulted, 1))
		return 1;
	*p = 1;
	return 0;
}

int main(int argc, char **argv)
{
	unsigned char *area, *file;
	char path[600];
	int fd;

	selfcheck_begin(argc, argv);
	signal(SIGSEGV, on_segv);
	area = mmap(0, 32 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(area != MAP_FAILED);
	memset(area, 0x21, 32 * PAGE);
	if (madvise(area + 4 * PAGE, 2 * PAGE, MADV_GUARD_INSTALL))
		skip_kernel("MADV_GUARD_INSTALL");
	REQUIRE(!madvise(area + 20 * PAGE, PAGE, MADV_GUARD_INSTALL));
	selfcheck_path(path, sizeof(path), "guarded");
	fd = open(path, O_RDWR | O_CREAT, 0644);
	REQUIRE(!ftruncate(fd, 8 * PAGE));
	file = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	REQUIRE(file != MAP_FAILED);
	if (madvise(file + 2 * PAGE, PAGE, MADV_GUARD_INSTALL))
		file = 0;
	selfcheck_park();
	check_fill("before the guard", 0x21, area, 4 * PAGE);
	check_fill("between the guards", 0x21, area + 6 * PAGE, 14 * PAGE);
	check_fill("after the guards", 0x21, area + 21 * PAGE, 11 * PAGE);
	check_int("first guard page", 1, touch_faults(area + 4 * PAGE));
	check_int("second guard page", 1, touch_faults(area + 6 * PAGE - 1));
	check_int("third guard page", 1, touch_faults(area + 20 * PAGE + 7));
	if (file) {
		check_int("guard in a file mapping", 1, touch_faults(file + 2 * PAGE));
		check_int("beside it", 0, touch_faults(file + 3 * PAGE));
	}
	check_int("MADV_GUARD_REMOVE", 0, madvise(area + 4 * PAGE, PAGE, MADV_GUARD_REMOVE));
	check_int("touch after removal", 0, touch_faults(area + 4 * PAGE));
	return selfcheck_end();
}

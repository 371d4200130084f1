/* Shared anonymous memory: split by mprotect, partly unmapped, mapped twice by mremap, unmapped pages with data. */
#include "selfcheck_proc.h"

#define PAGE 4096

int main(int argc, char **argv)
{
	unsigned char *area, *twin, *zero, *never, *dropped;
	char got[5];
	int fd;

	selfcheck_begin(argc, argv);
	area = mmap(0, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	never = mmap(0, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	dropped = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	REQUIRE(area != MAP_FAILED && never != MAP_FAILED && dropped != MAP_FAILED);
	for (int i = 0; i < 16; i++)
		memset(area + i * PAGE, 'A' + i, PAGE);
	/* old size 0 duplicates a shared mapping */
	twin = mremap(area + 4 * PAGE, 0, 4 * PAGE, MREMAP_MAYMOVE);
	REQUIRE(twin != MAP_FAILED);
	REQUIRE(!mprotect(area + 2 * PAGE, PAGE, PROT_READ));
	REQUIRE(!mprotect(area + 6 * PAGE, PAGE, PROT_NONE));
	memset(dropped, 'D', 4 * PAGE);
	REQUIRE(!madvise(dropped, 4 * PAGE, MADV_DONTNEED)); /* unmapped, still in the object */
	fd = open("/dev/zero", O_RDWR);
	zero = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	REQUIRE(zero != MAP_FAILED);
	close(fd);
	memset(zero, 'z', 2 * PAGE);
	REQUIRE(!munmap(area + 10 * PAGE, 2 * PAGE)); /* last: a later mmap would fill the hole */
	selfcheck_park();
	vma_perms(area + 2 * PAGE, got);
	check_str("read-only part", "r--s", got);
	vma_perms(area + 6 * PAGE, got);
	check_str("inaccessible part", "---s", got);
	mprotect(area + 6 * PAGE, PAGE, PROT_READ | PROT_WRITE);
	for (int i = 0; i < 16; i++)
		if (i < 10 || i > 11)
			check_fill("page", 'A' + i, area + i * PAGE, PAGE);
	check_fill("twin", 'E', twin, PAGE);
	twin[2 * PAGE + 1] = 'x';
	check_int("the twin's write is seen", 'x', area[6 * PAGE + 1]);
	area[7 * PAGE] = 'y';
	check_int("a write is seen by the twin", 'y', twin[3 * PAGE]);
	check_errno("unmapped part", ENOMEM, msync(area + 10 * PAGE, PAGE, MS_ASYNC));
	check_fill("never touched", 0, never, 16 * PAGE);
	check_fill("absent from the page tables", 'D', dropped, 4 * PAGE);
	check_fill("mapping of /dev/zero", 'z', zero, 2 * PAGE);
	/* the pages of the hole are still in the object */
	twin = mremap(area, 0, 16 * PAGE, MREMAP_MAYMOVE);
	check_fill("page under the hole", 'K', twin == MAP_FAILED ? area : twin + 10 * PAGE, PAGE);
	return selfcheck_end();
}

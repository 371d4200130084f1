/* 256 MiB of which 64 pages were touched; MADV_DONTNEED gives zeros, not image bytes. */
#include "selfcheck_proc.h"

#define SIZE (256UL << 20)
#define STEP (SIZE / 64)

int main(int argc, char **argv)
{
	unsigned char *area, *dropped;
	long rss;

	selfcheck_begin(argc, argv);
	area = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(area != MAP_FAILED);
	madvise(area, SIZE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < SIZE; i += STEP)
		memset(area + i, 0x77, 4096);
	dropped = area + STEP;
	selfcheck_park();
	rss = vma_kib(area, "Rss");
	if (rss > 4 * 64 + 64)
		fail("resident part: expected about 256 kB got %ld kB", rss);
	for (size_t i = 0; i < SIZE; i += STEP)
		check_fill("touched page", 0x77, area + i, 4096);
	check_int("MADV_DONTNEED", 0, madvise(dropped, 4096, MADV_DONTNEED));
	check_fill("zeros after MADV_DONTNEED", 0, dropped, 4096);
	check_fill("zeros beside a touched page", 0, area + 4096, 65536);
	return selfcheck_end();
}

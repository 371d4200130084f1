/* Terabytes reserved with PROT_NONE, with a few committed islands. */
#include "selfcheck_proc.h"

#define SIZE (3UL << 40)
#define STEP (SIZE / 4)

int main(int argc, char **argv)
{
	unsigned char *area, *late;
	char got[5];

	selfcheck_begin(argc, argv);
	area = mmap(0, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	REQUIRE(area != MAP_FAILED);
	for (unsigned long i = 1; i < 4; i++) {
		unsigned char *island = area + i * STEP;

		REQUIRE(!mprotect(island, 65536, PROT_READ | PROT_WRITE));
		memset(island + 4096, (int)(0x60 + i), 8192);
	}
	selfcheck_park();
	vma_perms(area, got);
	check_str("reservation", "---p", got);
	check_int("noreserve", 1, vma_has_flag(area, "nr"));
	for (unsigned long i = 1; i < 4; i++) {
		unsigned char *island = area + i * STEP;

		check_fill("island", (int)(0x60 + i), island + 4096, 8192);
		check_fill("rest of the island", 0, island + 12288, 65536 - 12288);
	}
	late = area + SIZE - (1 << 20);
	check_int("committing at the end", 0, mprotect(late, 4096, PROT_READ | PROT_WRITE));
	late[0] = 1;
	check_int("unmapping all of it", 0, munmap(area, SIZE));
	return selfcheck_end();
}

/* Every madvise flag that stays with an area, as VmFlags show it. */
#include "selfcheck_proc.h"

#define SIZE (4UL << 20)

static const struct {
	int advice;
	const char *flag;
} advices[] = {
	{ MADV_DONTFORK, "dc" },   { MADV_WIPEONFORK, "wf" }, { MADV_DONTDUMP, "dd" },
	{ MADV_HUGEPAGE, "hg" },   { MADV_NOHUGEPAGE, "nh" }, { MADV_MERGEABLE, "mg" },
	{ MADV_SEQUENTIAL, "sr" }, { MADV_RANDOM, "rr" },
};
#define COUNT ((int)(sizeof(advices) / sizeof(advices[0])))

int main(int argc, char **argv)
{
	unsigned char *areas[COUNT + 1];
	int supported[COUNT];

	selfcheck_begin(argc, argv);
	for (int i = 0; i <= COUNT; i++) {
		areas[i] = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		REQUIRE(areas[i] != MAP_FAILED);
		areas[i][4096] = (unsigned char)(i + 1);
		if (i < COUNT)
			supported[i] = !madvise(areas[i], SIZE, advices[i].advice);
	}
	selfcheck_park();
	for (int i = 0; i <= COUNT; i++) {
		check_int("byte", i + 1, areas[i][4096]);
		for (int j = 0; j < COUNT; j++) {
			char what[64];

			snprintf(what, sizeof(what), "area %d flag %s", i, advices[j].flag);
			if (supported[j])
				check_int(what, i == j, vma_has_flag(areas[i], advices[j].flag));
		}
	}
	return selfcheck_end();
}

/* Huge pages: transparent ones, and reserved ones (arguments "hugetlb", "shared"). */
#include "selfcheck_proc.h"

#define HUGE (2UL << 20)

static unsigned char *huge_map(int flags)
{
	void *p = mmap(0, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_HUGETLB | flags, -1, 0);

	if (p == MAP_FAILED)
		skip_kernel("reserved huge pages (vm.nr_hugepages)");
	return p;
}

static int hugetlb(int sharing)
{
	unsigned char *area = huge_map(sharing);

	memset(area + HUGE, 0x51, HUGE);
	selfcheck_park();
	check_fill("untouched", 0, area, HUGE);
	check_fill("touched", 0x51, area + HUGE, HUGE);
	check_int("page size", 2048, vma_kib(area, "KernelPageSize"));
	return selfcheck_end();
}

int main(int argc, char **argv)
{
	unsigned char *area;

	selfcheck_begin(argc, argv);
	if (argc > 2)
		return hugetlb(strcmp(argv[2], "hugetlb") ? MAP_SHARED : MAP_PRIVATE);
	area = mmap(0, 8 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(!madvise(area, 8 * HUGE, MADV_HUGEPAGE));
	for (size_t i = 0; i < 8 * HUGE; i += 4096)
		area[i] = (unsigned char)(i >> 12);
	selfcheck_park();
	for (size_t i = 0; i < 8 * HUGE; i += 4096)
		if (area[i] != (unsigned char)(i >> 12)) {
			fail("byte %#zx: expected %#x got %#x", i, (unsigned char)(i >> 12), area[i]);
			break;
		}
	check_int("hugepage advice", 1, vma_has_flag(area, "hg"));
	return selfcheck_end();
}

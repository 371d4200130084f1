/* The main stack still grows after restore, far below where it was; so does MAP_GROWSDOWN. */
#include "selfcheck_proc.h"

static int __attribute__((noinline)) dig(int depth)
{
	volatile char frame[4096];

	frame[0] = (char)depth;
	frame[4095] = 1;
	return depth ? dig(depth - 1) + frame[4095] : 0;
}

int main(int argc, char **argv)
{
	unsigned char *own, *top;
	char marker[64] = "at the bottom of the stack";

	selfcheck_begin(argc, argv);
	own = mmap(0, 1 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	REQUIRE(own != MAP_FAILED && !munmap(own, 1 << 20));
	top = own + (1 << 20) - 2 * 4096;
	own = mmap(top, 2 * 4096, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED, -1, 0);
	REQUIRE(own == top);
	memset(top, 0x33, 2 * 4096);
	selfcheck_park();
	check_int("recursion of 1000 pages", 1000, dig(1000));
	check_str("marker", "at the bottom of the stack", marker);
	check_int("main stack flag", 1, vma_has_flag(marker, "gd"));
	check_int("own stack flag", 1, vma_has_flag(top, "gd"));
	check_fill("own stack", 0x33, top, 2 * 4096);
	for (int page = 1; page < 100; page++)
		top[-page * 4096L] = 1; /* a fault that does not grow would be SIGSEGV */
	check_int("grown part", 0, top[-100]);
	return selfcheck_end();
}

/* Anonymous memory: every protection, data behind PROT_NONE, holes, huge strides, code. */
#include "selfcheck_proc.h"

#define PAGE 4096

static unsigned char *area(size_t len, int extra)
{
	void *p = mmap(0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | extra, -1, 0);

	REQUIRE(p != MAP_FAILED);
	return p;
}

int main(int argc, char **argv)
{
	static const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC,
				     PROT_WRITE, PROT_EXEC, PROT_READ | PROT_WRITE | PROT_EXEC };
	static const char *const perms[] = { "---p", "r--p", "rw-p", "r-xp", "-w-p", "--xp", "rwxp" };
	static const unsigned char code[] = { 0xb8, 0x39, 0x30, 0, 0, 0xc3 }; /* mov $12345,%eax; ret */
	unsigned char *by_prot[7], *sparse, *noreserve, *jit, *read_only_touched, *around;
	char got[5];

	selfcheck_begin(argc, argv);
	for (int i = 0; i < 7; i++) {
		by_prot[i] = area(3 * PAGE, 0);
		memset(by_prot[i], 0x40 + i, 3 * PAGE);
		REQUIRE(!mprotect(by_prot[i], 3 * PAGE, prots[i]));
	}
	sparse = area(64 << 20, 0);
	for (size_t i = 0; i < 64 << 20; i += 1 << 20)
		sparse[i + 77] = (unsigned char)(i >> 20);
	noreserve = area(1 << 20, MAP_NORESERVE);
	noreserve[5000] = 9;
	jit = area(PAGE, 0);
	memcpy(jit, code, sizeof(code));
	REQUIRE(!mprotect(jit, PAGE, PROT_READ | PROT_EXEC));
	read_only_touched = area(16 * PAGE, 0);
	REQUIRE(*(volatile unsigned char *)read_only_touched == 0); /* the zero page */
	around = area(9 * PAGE, 0);
	memset(around, 3, 9 * PAGE);
	REQUIRE(!munmap(around + 3 * PAGE, 3 * PAGE));
	selfcheck_park();
	for (int i = 0; i < 7; i++) {
		vma_perms(by_prot[i], got);
		check_str("protection", perms[i], got);
		check_int("mprotect", 0, mprotect(by_prot[i], 3 * PAGE, PROT_READ | PROT_WRITE));
		check_fill("data", 0x40 + i, by_prot[i], 3 * PAGE);
	}
	for (size_t i = 0; i < 64 << 20; i += 1 << 20)
		check_int("sparse byte", (unsigned char)(i >> 20), sparse[i + 77]);
	check_fill("zeros between", 0, sparse + PAGE, (1 << 20) - PAGE);
	check_int("noreserve byte", 9, noreserve[5000]);
	check_int("noreserve flag", 1, vma_has_flag(noreserve, "nr"));
	check_int("generated code", 12345, ((int (*)(void))(void *)jit)());
	check_fill("only read", 0, read_only_touched, 16 * PAGE);
	check_fill("before the hole", 3, around, 3 * PAGE);
	check_fill("after the hole", 3, around + 6 * PAGE, 3 * PAGE);
	check_errno("the hole", ENOMEM, msync(around + 3 * PAGE, PAGE, MS_ASYNC));
	return selfcheck_end();
}

/* mlock, mlock2 ONFAULT and (argument "all") mlockall of the future. */
#include "selfcheck_proc.h"

#define PAGE 4096

int main(int argc, char **argv)
{
	unsigned char *plain, *locked, *onfault, *later;
	int all;

	selfcheck_begin(argc, argv);
	all = argc > 2;
	plain = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(!mprotect(plain + 7 * PAGE, PAGE, PROT_READ));
	locked = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(!mprotect(locked + 7 * PAGE, PAGE, PROT_READ));
	onfault = mmap(0, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	locked[0] = 8;
	REQUIRE(!mlock(locked, 6 * PAGE));
	REQUIRE(!mlock2(onfault, 4 * PAGE, MLOCK_ONFAULT));
	onfault[1] = 9;
	if (all)
		REQUIRE(!mlockall(MCL_FUTURE | MCL_ONFAULT));
	selfcheck_park();
	check_int("locked: lo", 1, vma_has_flag(locked, "lo"));
	check_int("locked: kept resident", 6 * 4, vma_kib(locked, "Rss"));
	check_int("locked: byte", 8, locked[0]);
	check_int("onfault: lo", 1, vma_has_flag(onfault, "lo"));
	check_int("onfault: only the touched page", 4, vma_kib(onfault, "Rss"));
	check_int("onfault: byte", 9, onfault[1]);
	check_int("plain: not locked", 0, vma_has_flag(plain, "lo"));
	/* executable, so that it does not merge with a neighbour */
	later = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	later[0] = 1;
	check_int("later area locked", all, vma_has_flag(later, "lo"));
	if (all)
		check_int("later area only on fault", 4, vma_kib(later, "Rss"));
	return selfcheck_end();
}

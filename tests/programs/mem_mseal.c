/* Sealed areas: their data is there and they still cannot be changed. */
#include "selfcheck_proc.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif
#define SIZE 16384

int main(int argc, char **argv)
{
	unsigned char *writable, *read_only;

	selfcheck_begin(argc, argv);
	writable = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	read_only = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(writable, 1, SIZE);
	memset(read_only, 2, SIZE);
	REQUIRE(!mprotect(read_only, SIZE, PROT_READ));
	if (syscall(SYS_mseal, writable, SIZE, 0))
		skip_kernel("mseal");
	REQUIRE(!syscall(SYS_mseal, read_only, SIZE, 0));
	selfcheck_park();
	check_fill("writable", 1, writable, SIZE);
	check_fill("read-only", 2, read_only, SIZE);
	check_int("flag sl", 1, vma_has_flag(writable, "sl"));
	check_int("flag sl of the second", 1, vma_has_flag(read_only, "sl"));
	writable[0] = 3;
	check_errno("munmap", EPERM, munmap(writable, SIZE));
	check_errno("mprotect", EPERM, mprotect(read_only, SIZE, PROT_READ | PROT_WRITE));
	return selfcheck_end();
}

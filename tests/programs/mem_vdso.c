/* vdso and vvar are where they were, and time read through them agrees with the kernel. */
#include "selfcheck_proc.h"
#include <sys/auxv.h>

static void near_kernel(const char *name, clockid_t clock)
{
	struct timespec raw;
	long long before, kernel, after;

	before = clock_ns(clock);
	syscall(SYS_clock_gettime, clock, &raw);
	after = clock_ns(clock);
	kernel = raw.tv_sec * 1000000000LL + raw.tv_nsec;
	if (kernel < before - 10000000 || kernel > after + 10000000)
		fail("%s: expected the vdso's %lld..%lld got the kernel's %lld", name, before, after, kernel);
}

int main(int argc, char **argv)
{
	char before[8192], after[8192];
	unsigned long vdso;
	unsigned cpu;
	char *end;

	selfcheck_begin(argc, argv);
	vdso = getauxval(AT_SYSINFO_EHDR);
	REQUIRE(vdso && proc_smaps((void *)vdso, before, sizeof(before)));
	selfcheck_park();
	check_int("area of the vdso", 1, proc_smaps((void *)vdso, after, sizeof(after)));
	end = strchr(after, '\n');
	if (end)
		*end = 0;
	*strchr(before, '\n') = 0;
	check_str("maps line", before, after);
	check_mem("ELF magic", "\177ELF", (void *)vdso, 4);
	near_kernel("CLOCK_MONOTONIC", CLOCK_MONOTONIC);
	near_kernel("CLOCK_REALTIME", CLOCK_REALTIME);
	near_kernel("CLOCK_BOOTTIME", CLOCK_BOOTTIME);
	near_kernel("CLOCK_MONOTONIC_COARSE", CLOCK_MONOTONIC_COARSE);
	check_ok("getcpu", getcpu(&cpu, 0));
	return selfcheck_end();
}

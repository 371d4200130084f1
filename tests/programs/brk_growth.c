/* The heap made by brk: its contents, and that it still grows and shrinks. */
#include "selfcheck_proc.h"

#define SIZE (3 << 20)

int main(int argc, char **argv)
{
	char stat_before[4096], stat_after[4096];
	unsigned char *start, *more;

	selfcheck_begin(argc, argv);
	start = sbrk(SIZE);
	REQUIRE(start != (void *)-1);
	for (int i = 0; i < SIZE; i += 512)
		start[i] = (unsigned char)(i / 512);
	proc_read("/proc/self/stat", stat_before, sizeof(stat_before));
	selfcheck_park();
	check_int("brk", (long)(start + SIZE), (long)sbrk(0));
	for (int i = 0; i < SIZE; i += 512)
		check_int("byte of the heap", (unsigned char)(i / 512), start[i]);
	more = sbrk(SIZE);
	check_int("grown brk", (long)(start + SIZE), (long)more);
	if (more != (void *)-1) {
		check_fill("new part of the heap", 0, more, SIZE);
		memset(more, 5, SIZE);
		check_int("shrinking", (long)(more + SIZE), (long)sbrk(-2 * SIZE));
		check_int("growing again", (long)start, (long)sbrk(SIZE));
		check_fill("zeros after shrinking and growing", 0, start, SIZE);
	}
	/* fields 26-28 and 45-51: code, stack, data, brk, arguments, environment */
	proc_read("/proc/self/stat", stat_after, sizeof(stat_after));
	for (int field = 3, i = 0; field <= 51; field++) {
		char *a = strrchr(stat_before, ')') + 2, *b = strrchr(stat_after, ')') + 2, what[32];

		for (i = 3; i < field; i++)
			a = strchr(a, ' ') + 1, b = strchr(b, ' ') + 1;
		if ((field < 26 || field > 28) && field < 45)
			continue;
		snprintf(what, sizeof(what), "field %d of stat", field);
		check_int(what, strtoll(a, 0, 10), strtoll(b, 0, 10));
	}
	return selfcheck_end();
}

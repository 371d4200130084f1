/* Names of anonymous areas (PR_SET_VMA_ANON_NAME). */
#include "selfcheck_proc.h"

#define PR_SET_VMA 0x53564d41
#define SIZE 16384

int main(int argc, char **argv)
{
	unsigned char *named, *other, *plain;
	char text[8192];

	selfcheck_begin(argc, argv);
	named = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	plain = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	other = mmap(0, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (prctl(PR_SET_VMA, 0, named, SIZE, "a name of 1: (x)"))
		skip_kernel("names of anonymous areas");
	REQUIRE(!prctl(PR_SET_VMA, 0, other, SIZE, "other"));
	selfcheck_park();
	proc_smaps(named, text, sizeof(text));
	check_int("named", 1, strstr(text, "[anon:a name of 1: (x)]") != 0);
	proc_smaps(other, text, sizeof(text));
	check_int("other", 1, strstr(text, "[anon:other]") != 0);
	proc_smaps(plain, text, sizeof(text));
	check_int("plain", 0, strstr(text, "[anon:") != 0);
	return selfcheck_end();
}

/* coredump_filter and oom_score_adj. */
#include "selfcheck_proc.h"

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	REQUIRE(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

int main(int argc, char **argv)
{
	char text[64];

	selfcheck_begin(argc, argv);
	put("/proc/self/coredump_filter", "0x7d");
	put("/proc/self/oom_score_adj", "345");
	selfcheck_park();
	proc_read("/proc/self/coredump_filter", text, sizeof(text));
	check_str("coredump_filter", "0000007d\n", text);
	proc_read("/proc/self/oom_score_adj", text, sizeof(text));
	check_str("oom_score_adj", "345\n", text);
	return selfcheck_end();
}

/* Files of proc and sysfs in the middle of being read: the machine's, and the process's own. */
#include "selfcheck_fds.h"

static const char *paths[] = {
	"/proc/stat", "/proc/version", "/proc/self/status", "/proc/self/maps",
	"/sys/kernel/mm/transparent_hugepage/enabled",
};

#define COUNT ((int)(sizeof(paths) / sizeof(paths[0])))

int main(int argc, char **argv)
{
	char text[COUNT][64], again[64], name[64], pid[32];
	int fds[COUNT];
	off_t at[COUNT];

	selfcheck_begin(argc, argv);
	for (int i = 0; i < COUNT; i++) {
		fds[i] = open(paths[i], O_RDONLY | (i == 1 ? O_NONBLOCK : 0));
		check_ok(paths[i], fds[i]);
		check_int("bytes", 5, read(fds[i], text[i], 5));
		at[i] = lseek(fds[i], 0, SEEK_CUR);
	}
	selfcheck_park();
	snprintf(pid, sizeof(pid), "/proc/%d/status", getpid());
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fds[2]);
	memset(again, 0, sizeof(again));
	check_ok("readlink", readlink(name, again, sizeof(again) - 1));
	check_str("its own file", pid, again);
	check_int("flags", O_NONBLOCK, fcntl(fds[1], F_GETFL) & O_NONBLOCK);
	for (int i = 0; i < COUNT; i++) {
		check_int("position", at[i], lseek(fds[i], 0, SEEK_CUR));
		check_int("more to read", 1, read(fds[i], again, 5) > 0);
		check_int("rewind", 0, lseek(fds[i], 0, SEEK_SET));
		check_int("bytes", 5, read(fds[i], again, 5));
		check_mem(paths[i], text[i], again, 5);
	}
	return selfcheck_end();
}

/* /dev/null, zero, full, random and urandom, with their flags. */
#include "selfcheck_fds.h"
#include <sys/sysmacros.h>

static const struct {
	const char *path;
	int flags;
	unsigned minor;
} devices[] = {
	{ "/dev/null", O_RDWR, 3 },    { "/dev/zero", O_RDONLY, 5 },
	{ "/dev/full", O_WRONLY, 7 },  { "/dev/random", O_RDONLY | O_NONBLOCK, 8 },
	{ "/dev/urandom", O_RDONLY | O_CLOEXEC, 9 }, { "/dev/null", O_WRONLY | O_APPEND, 3 },
};
#define COUNT ((int)(sizeof(devices) / sizeof(devices[0])))

int main(int argc, char **argv)
{
	char bytes[16] = { 1 }, other[16] = { 0 };
	int fds[COUNT], flags[COUNT];
	struct stat st;

	selfcheck_begin(argc, argv);
	for (int i = 0; i < COUNT; i++) {
		fds[i] = open(devices[i].path, devices[i].flags);
		REQUIRE(fds[i] >= 0);
		flags[i] = fcntl(fds[i], F_GETFL);
	}
	selfcheck_park();
	for (int i = 0; i < COUNT; i++) {
		check_int("flags", flags[i], fcntl(fds[i], F_GETFL));
		check_int("fstat", 0, fstat(fds[i], &st));
		check_int("minor", devices[i].minor, minor(st.st_rdev));
	}
	check_int("FD_CLOEXEC", FD_CLOEXEC, fcntl(fds[4], F_GETFD));
	check_int("read of null", 0, read(fds[0], bytes, 16));
	check_int("read of zero", 16, read(fds[1], bytes, 16));
	check_fill("zeros", 0, bytes, 16);
	check_errno("write to full", ENOSPC, write(fds[2], "x", 1));
	check_int("read of random", 16, read(fds[3], bytes, 16));
	check_int("read of urandom", 16, read(fds[4], other, 16));
	check_int("they differ", 1, memcmp(bytes, other, 16) != 0);
	return selfcheck_end();
}

/* The table itself: dups that share a position, gaps, close-on-exec, numbers up to 1000. */
#include "selfcheck_fds.h"

int main(int argc, char **argv)
{
	int base, twin, high, separate, opath;
	char path[600];
	struct stat st;

	selfcheck_begin(argc, argv);
	base = open_in_dir("one file", O_CREAT | O_RDWR);
	put(base, "abcdefghij");
	twin = dup(base);
	high = fcntl(base, F_DUPFD_CLOEXEC, 1000);
	REQUIRE(high >= 1000 && dup2(base, 600) == 600);
	separate = open_in_dir("one file", O_RDWR);
	selfcheck_path(path, sizeof(path), "one file");
	opath = open(path, O_PATH | O_CLOEXEC);
	REQUIRE(opath >= 0 && lseek(base, 4, SEEK_SET) == 4);
	REQUIRE(!close(1)); /* a gap among the standard streams */
	selfcheck_park();
	check_errno("fd 1 stays closed", EBADF, fcntl(1, F_GETFD));
	check_int("position of the twin", 4, lseek(twin, 0, SEEK_CUR));
	REQUIRE(lseek(high, 7, SEEK_SET) == 7);
	check_int("shared by dup", 7, lseek(base, 0, SEEK_CUR));
	check_int("shared by dup2", 7, lseek(600, 0, SEEK_CUR));
	check_int("not by another open", 0, lseek(separate, 0, SEEK_CUR));
	check_int("FD_CLOEXEC of the high one", FD_CLOEXEC, fcntl(high, F_GETFD));
	check_int("FD_CLOEXEC of the twin", 0, fcntl(twin, F_GETFD));
	check_errno("read by O_PATH", EBADF, read(opath, path, 1));
	check_int("fstat by O_PATH", 0, fstat(opath, &st));
	check_int("size by O_PATH", 10, st.st_size);
	for (int fd = 3; fd < 1020; fd++)
		if (fd != base && fd != twin && fd != high && fd != separate && fd != opath && fd != 600 &&
		    fcntl(fd, F_GETFD) >= 0)
			fail("fd %d: expected closed got open", fd);
	return selfcheck_end();
}

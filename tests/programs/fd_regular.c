/* Regular files: position, flags (append, direct, sync, nonblocking, noatime), sparse offsets. */
#include "selfcheck_fds.h"

static const int flags[] = { O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_APPEND, O_RDWR | O_DIRECT,
			     O_RDWR | O_SYNC, O_RDWR | O_DSYNC, O_RDWR | O_NONBLOCK,
			     O_RDONLY | O_NOATIME, O_RDONLY | O_CLOEXEC };
#define COUNT ((int)(sizeof(flags) / sizeof(flags[0])))

int main(int argc, char **argv)
{
	int fds[COUNT], fl[COUNT], writer;
	char name[32];

	selfcheck_begin(argc, argv);
	for (int i = 0; i < COUNT; i++) {
		snprintf(name, sizeof(name), "file %d\n", i);
		writer = open_in_dir(name, O_CREAT | O_WRONLY);
		put(writer, "0123456789abcdef");
		close(writer);
		fds[i] = open_in_dir(name, flags[i] & O_DIRECT ? flags[i] & ~O_DIRECT : flags[i]);
		if (flags[i] & O_DIRECT)
			fcntl(fds[i], F_SETFL, O_DIRECT); /* not every file system has it */
		REQUIRE(lseek(fds[i], i == 2 ? 1LL << 33 : i, SEEK_SET) >= 0);
		fl[i] = fcntl(fds[i], F_GETFL);
	}
	selfcheck_park();
	for (int i = 0; i < COUNT; i++) {
		char what[48];

		snprintf(what, sizeof(what), "flags of file %d", i);
		check_int(what, fl[i], fcntl(fds[i], F_GETFL));
		snprintf(what, sizeof(what), "position in file %d", i);
		check_int(what, i == 2 ? 1LL << 33 : i, lseek(fds[i], 0, SEEK_CUR));
		snprintf(what, sizeof(what), "close-on-exec of file %d", i);
		check_int(what, flags[i] & O_CLOEXEC ? FD_CLOEXEC : 0, fcntl(fds[i], F_GETFD));
	}
	expect_read("read goes on", fds[0], "0123456789abcdef");
	check_int("append", 3, write(fds[3], "END", 3));
	check_int("position after append", 19, lseek(fds[3], 0, SEEK_CUR));
	check_errno("write to a read-only descriptor", EBADF, write(fds[0], "x", 1));
	check_errno("read from a write-only descriptor", EBADF, read(fds[1], name, 1));
	return selfcheck_end();
}

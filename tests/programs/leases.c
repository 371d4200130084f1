/* A read lease on a file: it is still held, and breaks with its signal. */
#include "selfcheck_fds.h"

int main(int argc, char **argv)
{
	struct timespec limit = { 2, 0 };
	char path[600];
	siginfo_t info;
	int fd;
	sigset_t set;

	selfcheck_begin(argc, argv);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &set, 0);
	close(open_in_dir("leased", O_CREAT | O_RDWR));
	fd = open_in_dir("leased", O_RDONLY);
	REQUIRE(!fcntl(fd, F_SETSIG, SIGRTMIN + 3));
	if (fcntl(fd, F_SETLEASE, F_RDLCK))
		skip_kernel("leases on this file system");
	selfcheck_park();
	check_int("F_GETLEASE", F_RDLCK, fcntl(fd, F_GETLEASE));
	check_int("F_GETSIG", SIGRTMIN + 3, fcntl(fd, F_GETSIG));
	selfcheck_path(path, sizeof(path), "leased");
	check_errno("opening for write breaks it", EWOULDBLOCK, open(path, O_WRONLY | O_NONBLOCK));
	check_int("signal", SIGRTMIN + 3, sigtimedwait(&set, &info, &limit));
	check_int("si_fd", fd, info.si_fd);
	return selfcheck_end();
}

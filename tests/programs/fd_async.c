/* Owners of descriptors: F_SETOWN, F_SETOWN_EX to a thread, F_SETSIG and O_ASYNC that fires. */
#include "selfcheck_fds.h"
#include <sys/socket.h>

int main(int argc, char **argv)
{
	struct f_owner_ex owner = { F_OWNER_TID, 0 }, got = { 0 };
	struct timespec limit = { 2, 0 };
	int pipe_fds[2], pair[2], group[2];
	siginfo_t info;
	sigset_t set;

	selfcheck_begin(argc, argv);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 6);
	sigprocmask(SIG_BLOCK, &set, 0);
	REQUIRE(!pipe(pipe_fds) && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair) && !pipe(group));
	owner.pid = gettid();
	REQUIRE(!fcntl(pipe_fds[0], F_SETOWN_EX, &owner) && !fcntl(pipe_fds[0], F_SETSIG, SIGRTMIN + 6) &&
		!fcntl(pipe_fds[0], F_SETFL, O_ASYNC | O_NONBLOCK));
	REQUIRE(!fcntl(pair[0], F_SETOWN, getpid()) && !fcntl(group[0], F_SETOWN, -getpgrp()));
	selfcheck_park();
	check_ok("F_GETOWN_EX", fcntl(pipe_fds[0], F_GETOWN_EX, &got));
	check_int("type of the owner", F_OWNER_TID, got.type);
	check_int("owner", gettid(), got.pid);
	check_int("F_GETSIG", SIGRTMIN + 6, fcntl(pipe_fds[0], F_GETSIG));
	check_int("flags", O_ASYNC | O_NONBLOCK, fcntl(pipe_fds[0], F_GETFL) & (O_ASYNC | O_NONBLOCK));
	check_int("owner of the socket", getpid(), fcntl(pair[0], F_GETOWN));
	check_int("owner of the other end", 0, fcntl(pair[1], F_GETOWN));
	check_int("owner of the other pipe", -getpgrp(), fcntl(group[0], F_GETOWN));
	put(pipe_fds[1], "x");
	check_int("signal", SIGRTMIN + 6, sigtimedwait(&set, &info, &limit));
	check_int("si_fd", pipe_fds[0], info.si_fd);
	return selfcheck_end();
}

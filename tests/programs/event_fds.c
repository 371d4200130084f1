/* eventfd (counter, semaphore, nonblocking) and signalfd (mask, pending signals through it). */
#include "selfcheck_fds.h"
#include <sys/eventfd.h>
#include <sys/signalfd.h>

int main(int argc, char **argv)
{
	int counter, semaphore, zero, signals, extra;
	struct signalfd_siginfo info;
	char text[64];
	sigset_t set;
	eventfd_t value = 0;

	selfcheck_begin(argc, argv);
	counter = eventfd(41, EFD_CLOEXEC);
	semaphore = eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK);
	zero = eventfd(0, EFD_NONBLOCK);
	REQUIRE(!eventfd_write(counter, 1));
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGRTMIN + 2);
	sigprocmask(SIG_BLOCK, &set, 0);
	signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	sigdelset(&set, SIGUSR1);
	extra = signalfd(-1, &set, 0);
	REQUIRE(counter >= 0 && semaphore >= 0 && zero >= 0 && signals >= 0 && extra >= 0);
	REQUIRE(!kill(getpid(), SIGUSR1));
	REQUIRE(!sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ .sival_int = 77 }));
	selfcheck_park();
	check_int("read of the counter", 0, eventfd_read(counter, &value));
	check_int("counter", 42, (long)value);
	check_int("FD_CLOEXEC", FD_CLOEXEC, fcntl(counter, F_GETFD));
	for (int i = 0; i < 3; i++) {
		check_int("read of the semaphore", 0, eventfd_read(semaphore, &value));
		check_int("semaphore gives", 1, (long)value);
	}
	check_errno("fourth read of the semaphore", EAGAIN, eventfd_read(semaphore, &value));
	check_errno("read of zero", EAGAIN, eventfd_read(zero, &value));
	proc_fdinfo(extra, "sigmask", text, sizeof(text));
	check_int("mask of the second signalfd", 1LL << (SIGRTMIN + 1), strtoll(text, 0, 16));
	check_int("read of the signalfd", sizeof(info), read(signals, &info, sizeof(info)));
	check_int("first signal", SIGUSR1, info.ssi_signo);
	check_int("read of the signalfd", sizeof(info), read(signals, &info, sizeof(info)));
	check_int("second signal", SIGRTMIN + 2, info.ssi_signo);
	check_int("its value", 77, info.ssi_int);
	check_errno("nothing more", EAGAIN, read(signals, &info, sizeof(info)));
	return selfcheck_end();
}

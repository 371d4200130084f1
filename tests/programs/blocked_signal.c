/* Waiting for signals: sigtimedwait, sigwaitinfo, sigsuspend, pause. */
#include "blocked.h"

static sigset_t usr2;
static siginfo_t info;
static unsigned long suspend_mask; /* empty */
static volatile int handled;

static void on_usr1(int sig)
{
	(void)sig;
	handled++;
}

static void setup(void)
{
	sigemptyset(&usr2);
	sigaddset(&usr2, SIGUSR2);
	REQUIRE(!pthread_sigmask(SIG_BLOCK, &usr2, 0));
	keep(&limit_ts, sizeof(limit_ts));
	keep(&usr2, sizeof(usr2) < 64 ? sizeof(usr2) : 64);
}

static long timed(void)
{
	return syscall(SYS_rt_sigtimedwait, &usr2, &info, &limit_ts, 8L);
}

static long waited(void)
{
	return sigwaitinfo(&usr2, &info);
}

static void send_value(void)
{
	sigqueue(getpid(), SIGUSR2, (union sigval){ .sival_int = 66 });
}

static void check_value(void)
{
	check_int("si_value", 66, info.si_value.sival_int);
	check_int("si_code", SI_QUEUE, info.si_code);
}

static void setup_suspend(void)
{
	struct sigaction action = { .sa_handler = on_usr1 };
	sigset_t both;

	REQUIRE(!sigaction(SIGUSR1, &action, 0));
	sigemptyset(&both);
	sigaddset(&both, SIGUSR1);
	sigaddset(&both, SIGURG);
	REQUIRE(!pthread_sigmask(SIG_BLOCK, &both, 0));
}

static unsigned long mask_after;

static long suspended(void)
{
	long rc = syscall(SYS_rt_sigsuspend, &suspend_mask, 8L);
	int error = errno;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, 0, &mask_after, 8L);
	errno = error;
	return rc;
}

static void check_suspended(void)
{
	check_int("handler ran", 1, handled);
	check_int("mask after sigsuspend", 1L << (SIGUSR1 - 1) | 1L << (SIGURG - 1), (long)mask_after);
}

static void setup_pause(void)
{
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };

	REQUIRE(!sigaction(SIGUSR1, &action, 0));
}

static long paused(void)
{
	return syscall(SYS_pause);
}

static void check_handled(void)
{
	check_int("handler ran", 1, handled);
}

static const struct blocked_case cases[] = {
	{ "sigtimedwait", SYS_rt_sigtimedwait, LASTS, -1, EAGAIN, timed, setup, 0, 0 },
	{ "sigwaitinfo", SYS_rt_sigtimedwait, FOREVER, SIGUSR2, 0, waited, setup, send_value, check_value },
	{ "sigsuspend", SYS_rt_sigsuspend, FOREVER, -1, EINTR, suspended, setup_suspend, wake_by_signal,
	  check_suspended },
	{ "pause", SYS_pause, FOREVER, -1, EINTR, paused, setup_pause, wake_by_signal, check_handled },
};

BLOCKED_PROGRAM(cases)

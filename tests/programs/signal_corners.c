/* Rarer states of signals: pending without siginfo, many, ignored but blocked. */
#include "selfcheck_threads.h"
#include <sys/resource.h>

enum { MANY = 300 };

static int take(int sig, siginfo_t *info)
{
	struct timespec none = { 0, 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return (int)syscall(SYS_rt_sigtimedwait, &set, info, &none, 8L);
}

static void build(struct worker *w)
{
	struct rlimit limit, no_room;
	siginfo_t info = { .si_signo = SIGSEGV, .si_code = SEGV_MAPERR };

	/* Only the thread itself may queue what looks like a fault. */
	info.si_addr = (void *)0x1234567;
	REQUIRE(!syscall(SYS_rt_tgsigqueueinfo, getpid(), w->tid, SIGSEGV, &info));
	REQUIRE(!getrlimit(RLIMIT_SIGPENDING, &limit));
	no_room = limit;
	no_room.rlim_cur = 0;
	REQUIRE(!setrlimit(RLIMIT_SIGPENDING, &no_room));
	/* A real-time signal of kill's kind is marked even when there is no room to queue it. */
	info.si_code = SI_USER;
	REQUIRE(!syscall(SYS_rt_tgsigqueueinfo, getpid(), w->tid, SIGRTMIN + 2, &info));
	REQUIRE(!kill(getpid(), SIGRTMIN + 4));
	REQUIRE(!setrlimit(RLIMIT_SIGPENDING, &limit));
}

static void check(struct worker *w)
{
	siginfo_t info;

	(void)w;
	check_int("fault", SIGSEGV, take(SIGSEGV, &info));
	check_int("fault's si_code", SEGV_MAPERR, info.si_code);
	check_int("fault's address", 0x1234567, (long)info.si_addr);
	check_int("bare signal of the thread", SIGRTMIN + 2, take(SIGRTMIN + 2, &info));
	check_int("its si_code", SI_USER, info.si_code);
	check_int("its si_pid", 0, info.si_pid);
}

int main(int argc, char **argv)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 6 };
	struct worker workers[1] = { 0 };
	siginfo_t info;
	sigset_t all;
	int timer;

	selfcheck_begin(argc, argv);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, 0);
	sigaction(SIGUSR1, &ignore, 0);
	REQUIRE(!kill(getpid(), SIGUSR1));
	REQUIRE(!kill(getpid(), SIGCONT));
	sigaction(SIGTRAP, &ignore, 0);
	REQUIRE(!kill(getpid(), SIGTRAP));
	REQUIRE(!syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
	REQUIRE(!syscall(SYS_timer_settime, timer, 0, &(struct itimerspec){ { 0, 0 }, { 0, 1 } }, 0));
	sleep_ms(10);
	for (int i = 0; i < MANY; i++)
		REQUIRE(!sigqueue(getpid(), SIGRTMAX, (union sigval){ .sival_int = i }));
	run_workers(workers, 1, build, check);
	check_int("ignored but blocked", SIGUSR1, take(SIGUSR1, &info));
	check_int("SIGCONT", SIGCONT, take(SIGCONT, &info));
	check_int("SIGTRAP", SIGTRAP, take(SIGTRAP, &info));
	check_int("its sender", getpid(), info.si_pid);
	sigaction(SIGTRAP, 0, &ignore);
	CHECK(ignore.sa_handler == SIG_IGN);
	check_int("signal of a timer", SIGRTMIN + 6, take(SIGRTMIN + 6, &info));
	check_int("bare signal of the process", SIGRTMIN + 4, take(SIGRTMIN + 4, &info));
	for (int i = 0; i < MANY; i++) {
		check_int("one of many", SIGRTMAX, take(SIGRTMAX, &info));
		check_int("in order", i, info.si_value.sival_int);
	}
	check_int("nothing else", -1, take(SIGRTMAX, &info));
	return selfcheck_end();
}

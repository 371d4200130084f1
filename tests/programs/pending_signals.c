/* Pending signals of the process and of threads: order, si_code, sender and values. */
#include "selfcheck_threads.h"

static sigset_t blocked;

static void queue_to_thread(int sig, int value)
{
	siginfo_t info = { .si_signo = sig, .si_code = SI_QUEUE };

	info.si_pid = 4321;
	info.si_uid = 1234;
	info.si_value.sival_int = value;
	REQUIRE(!syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), sig, &info));
}

static void build(struct worker *w)
{
	for (int i = 0; i < 5; i++)
		queue_to_thread(SIGRTMIN + 4, w->index * 100 + i);
	queue_to_thread(SIGRTMIN + 3, w->index * 100 + 50);
	REQUIRE(!syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1));
}

static void take(const char *what, int sig, int code, int pid, int value)
{
	struct timespec none = { 0, 0 };
	siginfo_t info;
	sigset_t one;
	char text[64];

	sigemptyset(&one);
	sigaddset(&one, sig);
	snprintf(text, sizeof(text), "%s signal %d", what, sig);
	/* raw: glibc turns SI_TKILL into SI_USER */
	if (syscall(SYS_rt_sigtimedwait, &one, &info, &none, 8L) != sig) {
		fail("%s: expected it pending got %s", text, strerror(errno));
		return;
	}
	check_int(text, code, info.si_code);
	check_int("si_pid", pid, info.si_pid);
	if (code == SI_QUEUE)
		check_int("si_value", value, info.si_value.sival_int);
}

static void check(struct worker *w)
{
	take("thread", SIGUSR1, SI_TKILL, getpid(), 0);
	take("thread", SIGRTMIN + 3, SI_QUEUE, 4321, w->index * 100 + 50);
	for (int i = 0; i < 5; i++)
		take("thread", SIGRTMIN + 4, SI_QUEUE, 4321, w->index * 100 + i);
}

static void nothing_left(void)
{
	sigset_t left;

	sigpending(&left);
	for (int sig = 1; sig < 65; sig++)
		if (sigismember(&left, sig) == 1)
			fail("signal %d: expected nothing pending any more got it pending", sig);
}

int main(int argc, char **argv)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_value.sival_int = 91 };
	struct itimerspec once = { { 0, 0 }, { 0, 1 } };
	struct worker workers[2] = { 0 };
	siginfo_t info;
	sigset_t timer_set;
	timer_t timer;

	selfcheck_begin(argc, argv);
	sigfillset(&blocked);
	sigprocmask(SIG_SETMASK, &blocked, 0);
	for (int i = 0; i < 4; i++)
		REQUIRE(!sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_int = 70 + i }));
	REQUIRE(!kill(getpid(), SIGTERM));
	REQUIRE(!kill(getpid(), SIGHUP));
	event.sigev_signo = SIGRTMIN + 9;
	REQUIRE(!timer_create(CLOCK_MONOTONIC, &event, &timer));
	REQUIRE(!timer_settime(timer, 0, &once, 0));
	run_workers(workers, 2, build, check);
	take("process", SIGTERM, SI_USER, getpid(), 0);
	take("process", SIGHUP, SI_USER, getpid(), 0);
	for (int i = 0; i < 4; i++)
		take("process", SIGRTMIN + 1, SI_QUEUE, getpid(), 70 + i);
	sigemptyset(&timer_set);
	sigaddset(&timer_set, SIGRTMIN + 9);
	if (sigtimedwait(&timer_set, &info, &(struct timespec){ 0, 0 }) != SIGRTMIN + 9) {
		fail("timer signal: expected it pending got %s", strerror(errno));
	} else {
		check_int("timer si_code", SI_TIMER, info.si_code);
		check_int("timer si_value", 91, info.si_value.sival_int);
		check_int("timer overrun", 0, timer_getoverrun(timer));
	}
	nothing_left();
	return selfcheck_end();
}

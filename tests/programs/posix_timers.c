/* POSIX timers: ids with gaps, clocks, remaining time, intervals, overruns, SIGEV_THREAD_ID. */
#include "selfcheck_threads.h"

static int raw_create(clockid_t clock, int notify, int sig, int value, pid_t tid)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = sig };
	int id = -1;

	event.sigev_value.sival_int = value;
	event._sigev_un._tid = tid;
	REQUIRE(!syscall(SYS_timer_create, clock, &event, &id));
	return id;
}

static void arm(int id, int flags, long long first_ns, long long interval_ns)
{
	struct itimerspec spec = { { interval_ns / 1000000000, interval_ns % 1000000000 },
				   { first_ns / 1000000000, first_ns % 1000000000 } };

	REQUIRE(!syscall(SYS_timer_settime, id, flags, &spec, 0));
}

static long long armed_at, armed_at_realtime;

/* `total` seconds when it was armed, less what that clock has counted since. */
static void expect_left(const char *what, int id, clockid_t clock, double total, long long interval_ns)
{
	long long start = clock == CLOCK_REALTIME ? armed_at_realtime : armed_at;
	struct itimerspec spec = { 0 };
	double left, expected = total - (double)(clock_ns(clock) - start) / 1e9;

	check_int(what, 0, syscall(SYS_timer_gettime, id, &spec));
	left = (double)spec.it_value.tv_sec + (double)spec.it_value.tv_nsec / 1e9;
	if (total > 0 ? left < expected - 0.05 || left > expected + 0.05 : left > 0)
		fail("%s: expected %.3f s left got %.3f s", what, expected, left);
	check_int(what, interval_ns, spec.it_interval.tv_sec * 1000000000LL + spec.it_interval.tv_nsec);
}

static int thread_timer;

static void build(struct worker *w)
{
	thread_timer = raw_create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 5, 55, w->tid);
	arm(thread_timer, 0, 50000000, 0);
}

static void check(struct worker *w)
{
	struct timespec limit = { 2, 0 };
	siginfo_t info;
	sigset_t set;

	(void)w;
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 5);
	check_int("signal to the thread", SIGRTMIN + 5, sigtimedwait(&set, &info, &limit));
	check_int("its value", 55, info.si_value.sival_int);
	check_int("its timer id", thread_timer, info.si_timerid);
}

int main(int argc, char **argv)
{
	int gap, relative, absolute, none, periodic, unarmed, realtime, overrun;
	struct worker workers[1] = { 0 };
	struct timespec limit = { 2, 0 };
	siginfo_t info;
	sigset_t set;

	selfcheck_begin(argc, argv);
	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, 0);
	gap = raw_create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
	relative = raw_create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 11, 0);
	absolute = raw_create(CLOCK_BOOTTIME, SIGEV_SIGNAL, SIGRTMIN + 2, 12, 0);
	none = raw_create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
	periodic = raw_create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 13, 0);
	unarmed = raw_create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGPROF, 14, 0);
	realtime = raw_create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 4, 15, 0);
	overrun = raw_create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 7, 17, 0);
	REQUIRE(!syscall(SYS_timer_delete, gap));
	armed_at = clock_ns(CLOCK_MONOTONIC);
	armed_at_realtime = clock_ns(CLOCK_REALTIME);
	arm(relative, 0, 100000000000LL, 0);
	arm(absolute, TIMER_ABSTIME, clock_ns(CLOCK_BOOTTIME) + 200000000000LL, 0);
	arm(none, 0, 300000000000LL, 7000000000LL);
	arm(periodic, 0, 400000000000LL, 5000000LL);
	arm(realtime, TIMER_ABSTIME, clock_ns(CLOCK_REALTIME) + 500000000000LL, 0);
	arm(overrun, 0, 1000000LL, 1000000LL);
	sleep_ms(100);
	run_workers(workers, 1, build, check);
	check_errno("deleted timer", EINVAL, syscall(SYS_timer_gettime, gap, &(struct itimerspec){ 0 }));
	expect_left("relative", relative, CLOCK_MONOTONIC, 100, 0);
	expect_left("absolute", absolute, CLOCK_MONOTONIC, 200, 0);
	expect_left("none", none, CLOCK_MONOTONIC, 300, 7000000000LL);
	expect_left("periodic", periodic, CLOCK_MONOTONIC, 400, 5000000LL);
	expect_left("unarmed", unarmed, CLOCK_MONOTONIC, 0, 0);
	expect_left("realtime", realtime, CLOCK_REALTIME, 500, 0);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 7);
	check_int("pending timer signal", SIGRTMIN + 7, sigtimedwait(&set, &info, &limit));
	check_int("its value", 17, info.si_value.sival_int);
	if (syscall(SYS_timer_getoverrun, overrun) < 90)
		fail("overrun: expected at least 90 got %ld", syscall(SYS_timer_getoverrun, overrun));
	return selfcheck_end();
}

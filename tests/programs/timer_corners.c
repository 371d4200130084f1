/* POSIX timers and ITIMER_REAL in rarer states: signals queued, ignored, dates, CPU clocks, ids. */
#include "selfcheck_threads.h"
#include <sys/time.h>

#define SECOND 1000000000LL

static int create(clockid_t clock, int notify, int sig, long value, pid_t tid)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = sig };
	int id = -1;

	event.sigev_value.sival_ptr = (void *)value;
	event._sigev_un._tid = tid;
	REQUIRE(!syscall(SYS_timer_create, clock, &event, &id));
	return id;
}

static void arm(int id, int flags, long long first_ns, long long interval_ns)
{
	struct itimerspec spec = { { interval_ns / SECOND, interval_ns % SECOND },
				   { first_ns / SECOND, first_ns % SECOND } };

	REQUIRE(!syscall(SYS_timer_settime, id, flags, &spec, 0));
}

static long long left_ns(int id)
{
	struct itimerspec spec = { 0 };

	check_int("timer_gettime", 0, syscall(SYS_timer_gettime, id, &spec));
	return spec.it_value.tv_sec * SECOND + spec.it_value.tv_nsec;
}

static int take(int sig, siginfo_t *info, int limit_ms)
{
	struct timespec limit = { limit_ms / 1000, limit_ms % 1000 * 1000000L };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return (int)syscall(SYS_rt_sigtimedwait, &set, info, &limit, 8L);
}

static void expect_signal(const char *what, int sig, int id, long value, int limit_ms)
{
	siginfo_t info;

	if (take(sig, &info, limit_ms) != sig) {
		fail("%s: expected signal %d got %s", what, sig, strerror(errno));
		return;
	}
	check_int(what, SI_TIMER, info.si_code);
	check_int(what, id, info.si_timerid);
	check_int(what, value, (long)info.si_value.sival_ptr);
}

static int thread_pending, thread_cpu;

static void build(struct worker *w)
{
	thread_pending = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 1, 0x123456789abL, w->tid);
	arm(thread_pending, 0, 1, 0);
	thread_cpu = create(CLOCK_THREAD_CPUTIME_ID, SIGEV_THREAD_ID, SIGRTMIN + 2, 2, w->tid);
	arm(thread_cpu, 0, 50000000, 0);
	sleep_ms(20);
}

static void check(struct worker *w)
{
	long long start;

	(void)w;
	expect_signal("queued for a thread", SIGRTMIN + 1, thread_pending, 0x123456789abL, 0);
	start = clock_ns(CLOCK_THREAD_CPUTIME_ID);
	while (clock_ns(CLOCK_THREAD_CPUTIME_ID) - start < 120000000LL)
		;
	expect_signal("CPU clock of a thread", SIGRTMIN + 2, thread_cpu, 2, 100);
}

static void check_overrun(int id, long long began_ns)
{
	long long elapsed;
	siginfo_t info;

	elapsed = clock_ns(CLOCK_MONOTONIC) - began_ns;
	check_int("periodic", SIGRTMIN + 3, take(SIGRTMIN + 3, &info, 0));
	check_int("its value", 3, info.si_value.sival_int);
	if (info.si_overrun < elapsed / 10000000 - 3 || info.si_overrun > elapsed / 10000000 + 8)
		fail("overrun: expected about %lld got %d", elapsed / 10000000, info.si_overrun);
	check_int("timer_getoverrun", info.si_overrun, syscall(SYS_timer_getoverrun, id));
	check_int("it goes on", SIGRTMIN + 3, take(SIGRTMIN + 3, &info, 200));
}

int main(int argc, char **argv)
{
	int periodic, ignored, date, relative, process_cpu, queued_cpu, none, gone, late;
	struct itimerval alarm_timer = { { 0, 50000 }, { 0, 1000 } }, got;
	struct sigaction ignore = { .sa_handler = SIG_IGN }, normal = { .sa_handler = SIG_DFL };
	struct worker workers[1] = { 0 };
	long long began_ns, date_ns;
	siginfo_t info;
	sigset_t all;

	selfcheck_begin(argc, argv);
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, 0);
	for (int i = 0; i < 5; i++)
		gone = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
	for (int id = 0; id <= gone; id += 2)
		REQUIRE(!syscall(SYS_timer_delete, id));
	periodic = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 3, 0);
	ignored = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR2, 4, 0);
	date = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 5, 5, 0);
	relative = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN + 6, 6, 0);
	process_cpu = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 7, 7, 0);
	queued_cpu = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 8, 8, 0);
	none = create(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0, 0);
	late = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);
	REQUIRE(!syscall(SYS_timer_delete, late));
	sigaction(SIGUSR2, &ignore, 0);
	began_ns = clock_ns(CLOCK_MONOTONIC) + 1000000;
	arm(periodic, TIMER_ABSTIME, began_ns, 10000000);
	sigprocmask(SIG_UNBLOCK, &(sigset_t){ { 1UL << (SIGUSR2 - 1) } }, 0);
	arm(ignored, 0, 1000000, 10000000);
	date_ns = clock_ns(CLOCK_REALTIME) + 3600 * SECOND;
	arm(date, TIMER_ABSTIME, date_ns, 0);
	arm(relative, 0, 1800 * SECOND, 60 * SECOND);
	arm(process_cpu, 0, 900 * SECOND, 0);
	arm(queued_cpu, TIMER_ABSTIME, 1, 0);
	arm(none, 0, 100 * SECOND, 0);
	REQUIRE(!setitimer(ITIMER_REAL, &alarm_timer, 0));
	sleep_ms(100);
	run_workers(workers, 1, build, check);
	check_overrun(periodic, began_ns);
	sigprocmask(SIG_BLOCK, &all, 0);
	sigaction(SIGUSR2, &normal, 0);
	expect_signal("ignored no more", SIGUSR2, ignored, 4, 200);
	if (llabs(left_ns(date) - (date_ns - clock_ns(CLOCK_REALTIME))) > 5000000)
		fail("date: expected %lld ns left got %lld", date_ns - clock_ns(CLOCK_REALTIME),
		     left_ns(date));
	if (left_ns(relative) > 1800 * SECOND || left_ns(relative) < 1790 * SECOND)
		fail("relative: expected 1800 s left got %lld ns", left_ns(relative));
	if (left_ns(process_cpu) > 900 * SECOND || left_ns(process_cpu) < 898 * SECOND)
		fail("process CPU clock: expected 900 s left got %lld ns", left_ns(process_cpu));
	if (left_ns(none) > 100 * SECOND || left_ns(none) < 90 * SECOND)
		fail("notifies nobody: expected 100 s left got %lld ns", left_ns(none));
	expect_signal("queued by a CPU clock", SIGRTMIN + 8, queued_cpu, 8, 0);
	getitimer(ITIMER_REAL, &got);
	check_int("SIGALRM", SIGALRM, take(SIGALRM, &info, 0));
	check_int("its si_code", SI_KERNEL, info.si_code);
	check_int("ITIMER_REAL goes on", SIGALRM, take(SIGALRM, &info, 500));
	check_int("next id", thread_cpu + 1, create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0));
	return selfcheck_end();
}

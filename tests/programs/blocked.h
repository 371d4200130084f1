/*
 * Frame of the programs that are caught inside a system call: blocked_GROUP DIR CASE.
 *
 * One thread blocks in the case's call.  The main thread reports ready once /proc shows it inside
 * the call, waits for "go", makes sure that the call is still going on (else the disturbance
 * missed it, or broke it off), wakes it if it has no time limit, and compares result, errno, time
 * and the memory that the call was given with what an undisturbed run gives.
 */
#ifndef BLOCKED_H
#define BLOCKED_H

#include "selfcheck_proc.h"
#include <sys/resource.h>

#define SLACK_NS 50000000LL /* a time limit may be missed by this much */
#define WHEEL_NS (limit_ns > 2000000000LL ? limit_ns / 8 : 0) /* kernel/time/timer.c: coarse far ahead */

enum limit {
	FOREVER, /* ends when `wake` says so */
	LASTS, /* limit_ns of CLOCK_MONOTONIC after it began */
	LASTS_BY_WHEEL, /* likewise, by a timer of the coarse kind */
	UNTIL_REALTIME, /* at blocked_deadline of CLOCK_REALTIME */
	CPU_TIME, /* the case checks its own time */
};

struct blocked_case {
	const char *name;
	long nr; /* the call in which /proc/TID/syscall must show it */
	enum limit limit;
	long rc;
	int error;
	long (*call)(void); /* in a thread of its own */
	void (*setup)(void);
	void (*wake)(void);
	void (*check)(void);
};

/* In .rodata, where no tool can put another value without being noticed. */
static const struct timespec limit_choices[] = { { 1, 500000000 }, { 5, 0 }, { 15, 0 } };
static int limit_choice; /* CKPT_LIMIT: how slow the machine is today */
#define limit_ts (limit_choices[limit_choice])
static long long limit_ns, real_limit_ns;
static volatile pid_t blocked_tid;
static volatile int blocked_done;
static long blocked_rc;
static int blocked_errno;
static long long blocked_start, blocked_end, blocked_real_end, blocked_deadline;
static const struct blocked_case *blocked_now;

static struct {
	const void *at;
	size_t len;
	unsigned char copy[64];
} kept[8];
static int kept_count;

/* This memory must be the same after the call. */
static UNUSED void keep(const void *at, size_t len)
{
	kept[kept_count].at = at;
	kept[kept_count].len = len;
	memcpy(kept[kept_count++].copy, at, len);
}

static UNUSED struct timespec from_now(clockid_t clock, long long ns)
{
	struct timespec ts;

	blocked_deadline = clock_ns(clock) + ns;
	ts.tv_sec = blocked_deadline / 1000000000;
	ts.tv_nsec = blocked_deadline % 1000000000;
	return ts;
}

static void *blocked_main(void *arg)
{
	(void)arg;
	blocked_tid = gettid();
	blocked_start = clock_ns(CLOCK_MONOTONIC);
	errno = 0;
	blocked_rc = blocked_now->call();
	blocked_errno = errno;
	blocked_end = clock_ns(CLOCK_MONOTONIC);
	blocked_real_end = clock_ns(CLOCK_REALTIME);
	blocked_done = 1;
	return 0;
}

#define I386_NANOSLEEP 162
#define I386_RESTART_SYSCALL 0

/* In the call, or in restart_syscall, which goes on with it. */
static int blocked_is_inside(void)
{
	char path[64], text[256];
	long nr;

	if (!blocked_tid)
		return 0;
	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", blocked_tid);
	if (proc_read(path, text, sizeof(text)) <= 0 || text[0] < '0' || text[0] > '9')
		return 0;
	nr = atol(text);
	if (blocked_now->nr == I386_NANOSLEEP && nr == I386_RESTART_SYSCALL)
		return 1;
	return nr == blocked_now->nr || nr == SYS_restart_syscall;
}

static int blocked_wait(int (*condition)(void), long long limit_ns)
{
	long long end = clock_ns(CLOCK_MONOTONIC) + limit_ns;

	while (!condition() && clock_ns(CLOCK_MONOTONIC) < end)
		sleep_ms(2);
	return condition();
}

static int blocked_is_over(void)
{
	return blocked_done;
}

static int blocked_settled(void)
{
	return blocked_done || blocked_is_inside();
}

static void blocked_check_time(long long woken)
{
	long long late, slack = SLACK_NS;

	if (blocked_now->limit == CPU_TIME)
		return;
	if (blocked_now->limit == FOREVER) {
		late = blocked_end - woken;
	} else if (blocked_now->limit == LASTS || blocked_now->limit == LASTS_BY_WHEEL) {
		late = blocked_end - blocked_start - limit_ns;
	} else {
		late = blocked_real_end - blocked_deadline;
	}
	if (blocked_now->limit == LASTS_BY_WHEEL)
		slack += WHEEL_NS;
	/* a clock tick of 10 ms early is what SO_RCVTIMEO rounds to */
	if (late < -10000000LL || late > slack)
		fail("time: expected its end on time got it %.1f ms late", (double)late / 1e6);
}

static void blocked_check_result(void)
{
	check_int("result", blocked_now->rc, blocked_rc);
	if (blocked_now->rc == -1 && blocked_errno != blocked_now->error)
		fail("errno: expected %s got %s", strerror(blocked_now->error), strerror(blocked_errno));
	for (int i = 0; i < kept_count; i++)
		check_mem("memory given to the call", kept[i].copy, kept[i].at, kept[i].len);
	if (blocked_now->check)
		blocked_now->check();
}

static int blocked_run(const struct blocked_case *c)
{
	long long woken = 0;
	pthread_t thread;

	blocked_now = c;
	if (c->setup)
		c->setup();
	REQUIRE(!pthread_create(&thread, 0, blocked_main, 0));
	REQUIRE(blocked_wait(blocked_is_inside, 1000000000LL));
	selfcheck_park();
	blocked_wait(blocked_settled, 1000000000LL);
	if (blocked_done) {
		fail("call: expected it to go on got %ld (%s) after %.1f ms", blocked_rc,
		     strerror(blocked_errno), (double)(blocked_end - blocked_start) / 1e6);
		return selfcheck_end();
	}
	if (!blocked_is_inside())
		fail("thread: expected inside call %ld got elsewhere", c->nr);
	woken = clock_ns(CLOCK_MONOTONIC);
	if (c->wake)
		c->wake();
	if (!blocked_wait(blocked_is_over, 2 * real_limit_ns + 5000000000LL)) {
		fail("call: expected its end got none for long after its time");
		return selfcheck_end();
	}
	pthread_join(thread, 0);
	blocked_check_time(woken);
	blocked_check_result();
	return selfcheck_end();
}

static int blocked_program(int argc, char **argv, const struct blocked_case *cases, size_t count)
{
	const char *choice = getenv("CKPT_LIMIT");

	selfcheck_begin(argc, argv);
	limit_choice = choice && *choice >= '0' && *choice <= '2' ? *choice - '0' : 0;
	limit_ns = limit_ts.tv_sec * 1000000000LL + limit_ts.tv_nsec;
	real_limit_ns = limit_ns + 1000000000LL; /* wall-clock limits run on during the pause */
	setpriority(PRIO_PROCESS, 0, -20); /* wakes up on time on a busy machine as well */
	for (size_t i = 0; argc > 2 && i < count; i++)
		if (!strcmp(argv[2], cases[i].name))
			return blocked_run(&cases[i]);
	for (size_t i = 0; i < count; i++)
		fprintf(stderr, "%s\n", cases[i].name);
	return 64;
}

#define BLOCKED_PROGRAM(cases)                                                                     \
	int main(int argc, char **argv)                                                            \
	{                                                                                          \
		return blocked_program(argc, argv, cases, sizeof(cases) / sizeof(cases[0]));       \
	}

static UNUSED void on_signal_do_nothing(int sig)
{
	(void)sig;
}

/* SIGUSR1 has a handler, so it breaks the call off: EINTR is then right. */
static UNUSED void setup_handler(void)
{
	struct sigaction action = { .sa_handler = on_signal_do_nothing };

	REQUIRE(!sigaction(SIGUSR1, &action, 0));
}

static UNUSED void wake_by_signal(void)
{
	syscall(SYS_tgkill, getpid(), blocked_tid, SIGUSR1);
}

#endif

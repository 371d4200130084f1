/* Waiting for descriptors: poll, select and epoll in all their forms, and raw loops around them. */
#include "blocked.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>

#define LIMIT_MS (limit_ns / 1000000)

static int quiet, epoll;
static struct pollfd one;
static fd_set set;
static struct epoll_event event;
static unsigned long mask; /* empty: SIGUSR1 gets through only while waiting */
static struct timespec changing;
static struct timeval changing_tv;

static void setup(void)
{
	struct epoll_event wanted = { .events = EPOLLIN, .data.u64 = 0x1234 };

	quiet = eventfd(0, EFD_NONBLOCK);
	epoll = epoll_create1(0);
	REQUIRE(quiet >= 0 && epoll >= 0 && !epoll_ctl(epoll, EPOLL_CTL_ADD, quiet, &wanted));
	one = (struct pollfd){ .fd = quiet, .events = POLLIN };
	FD_ZERO(&set);
	FD_SET(quiet, &set);
	changing = limit_ts;
	changing_tv = (struct timeval){ limit_ts.tv_sec, limit_ts.tv_nsec / 1000 };
	keep(&limit_ts, sizeof(limit_ts));
}

static void wake(void)
{
	REQUIRE(!eventfd_write(quiet, 1));
}

static void check_poll(void)
{
	check_int("revents", POLLIN, one.revents);
}

static void check_epoll(void)
{
	check_int("events", EPOLLIN, event.events);
	check_int("data word", 0x1234, (long)event.data.u64);
}

static void check_set(void)
{
	check_int("fd in the set", blocked_now->rc, FD_ISSET(quiet, &set) != 0);
}

/* The raw calls write the time that is left into the program's memory: none. */
static void check_no_time_left(void)
{
	check_int("seconds left", 0, changing.tv_sec);
	check_int("nanoseconds left", 0, changing.tv_nsec);
}

static void check_no_tv_left(void)
{
	check_int("seconds left", 0, changing_tv.tv_sec);
	check_int("microseconds left", 0, changing_tv.tv_usec);
	check_set();
}

static long poll_limit(void)
{
	return syscall(SYS_poll, &one, 1, LIMIT_MS);
}

static long poll_forever(void)
{
	return poll(&one, 1, -1);
}

static long poll_nothing(void)
{
	return poll(0, 0, (int)LIMIT_MS);
}

static long ppoll_limit(void)
{
	return ppoll(&one, 1, &limit_ts, (sigset_t *)0);
}

static long ppoll_raw(void)
{
	return syscall(SYS_ppoll, &one, 1, &changing, &mask, 8L);
}

static long ppoll_forever(void)
{
	return syscall(SYS_ppoll, &one, 1, 0, &mask, 8L);
}

static void block_usr1(void)
{
	sigset_t usr1;

	setup();
	setup_handler();
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	REQUIRE(!pthread_sigmask(SIG_BLOCK, &usr1, 0));
}

static void setup_both(void)
{
	setup();
	setup_handler();
}

static void check_masked_again(void)
{
	sigset_t pending;

	sigpending(&pending);
	check_int("SIGUSR1 was taken", 0, sigismember(&pending, SIGUSR1));
}

static long select_raw(void)
{
	return syscall(SYS_select, quiet + 1, &set, 0, 0, &changing_tv);
}

static long select_forever(void)
{
	return syscall(SYS_select, quiet + 1, &set, 0, 0, 0);
}

static long pselect_limit(void)
{
	return pselect(quiet + 1, &set, 0, 0, &limit_ts, 0);
}

static long pselect_raw(void)
{
	return syscall(SYS_pselect6, quiet + 1, &set, 0, 0, &changing, 0);
}

static long pselect_forever(void)
{
	struct {
		const unsigned long *set;
		size_t len;
	} sixth = { &mask, 8 };

	return syscall(SYS_pselect6, quiet + 1, &set, 0, 0, 0, &sixth);
}

static long epoll_limit(void)
{
	return epoll_wait(epoll, &event, 1, (int)LIMIT_MS);
}

static long epoll_raw(void)
{
	return syscall(SYS_epoll_wait, epoll, &event, 1, LIMIT_MS);
}

static long epoll_forever(void)
{
	return syscall(SYS_epoll_wait, epoll, &event, 1, -1);
}

static long epoll_pwait_limit(void)
{
	return syscall(SYS_epoll_pwait, epoll, &event, 1, LIMIT_MS, &mask, 8L);
}

static long epoll_pwait_forever(void)
{
	return syscall(SYS_epoll_pwait, epoll, &event, 1, -1, &mask, 8L);
}

static long epoll_pwait2_limit(void)
{
	return syscall(441 /* SYS_epoll_pwait2 */, epoll, &event, 1, &limit_ts, 0, 0L);
}

static long epoll_pwait2_forever(void)
{
	return syscall(441, epoll, &event, 1, 0, 0, 0L);
}

/*
 * The call inlined in a loop that never loads its arguments again: rdi, rsi, rdx and r10 must
 * come out of the disturbed first round as they went in, or the second round is another call.
 */
static long loop_twice(long nr, long a, const void *b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	long rc, first;

	__asm__ volatile("mov %6, %%rax\n\tsyscall\n\tmov %%rax, %1\n\tmov %6, %%rax\n\tsyscall"
			 : "=&a"(rc), "=&r"(first), "+D"(a), "+S"(b), "+d"(c), "+r"(r10)
			 : "r"(nr) : "rcx", "r11", "memory");
	d -= r10;
	check_int("change of r10", 0, d);
	return first ? first : rc;
}

static long epoll_loop(void)
{
	return loop_twice(SYS_epoll_wait, epoll, &event, 1, LIMIT_MS);
}

static long poll_loop(void)
{
	return loop_twice(SYS_poll, (long)&one, (void *)1, LIMIT_MS, 0);
}

static void check_both_rounds(void)
{
	long long late = blocked_end - blocked_start - 2 * limit_ns;

	if (late < -20000000LL || late > 2 * SLACK_NS)
		fail("two rounds: expected %lld ms got %lld ms", 2 * LIMIT_MS,
		     (blocked_end - blocked_start) / 1000000);
}

/*
 * The time is in a register that cannot be put back, and this loop uses it again: the call that was
 * interrupted waits its full time once more, the next one is on time.
 */
static void check_one_round_late(void)
{
	long long late = blocked_end - blocked_start - 2 * limit_ns;

	if (late < -20000000LL || late > limit_ns + 2 * SLACK_NS)
		fail("two rounds: expected %lld to %lld ms got %lld ms", 2 * LIMIT_MS,
		     3 * LIMIT_MS, (blocked_end - blocked_start) / 1000000);
}

static const struct blocked_case cases[] = {
	{ "poll", SYS_poll, LASTS, 0, 0, poll_limit, setup, 0, 0 },
	{ "poll_forever", SYS_poll, FOREVER, 1, 0, poll_forever, setup, wake, check_poll },
	{ "poll_nothing", SYS_poll, LASTS, 0, 0, poll_nothing, setup, 0, 0 },
	{ "poll_signal", SYS_poll, FOREVER, -1, EINTR, poll_forever, setup_both, wake_by_signal, 0 },
	{ "ppoll", SYS_ppoll, LASTS, 0, 0, ppoll_limit, setup, 0, 0 },
	{ "ppoll_raw", SYS_ppoll, LASTS, 0, 0, ppoll_raw, setup, 0, check_no_time_left },
	{ "ppoll_forever", SYS_ppoll, FOREVER, 1, 0, ppoll_forever, setup, wake, check_poll },
	{ "ppoll_signal", SYS_ppoll, FOREVER, -1, EINTR, ppoll_forever, block_usr1, wake_by_signal,
	  check_masked_again },
	{ "select_raw", SYS_select, LASTS, 0, 0, select_raw, setup, 0, check_no_tv_left },
	{ "select_forever", SYS_select, FOREVER, 1, 0, select_forever, setup, wake, check_set },
	{ "pselect6", SYS_pselect6, LASTS, 0, 0, pselect_limit, setup, 0, check_set },
	{ "pselect6_raw", SYS_pselect6, LASTS, 0, 0, pselect_raw, setup, 0, check_no_time_left },
	{ "pselect6_forever", SYS_pselect6, FOREVER, 1, 0, pselect_forever, setup, wake, check_set },
	{ "pselect6_signal", SYS_pselect6, FOREVER, -1, EINTR, pselect_forever, block_usr1,
	  wake_by_signal, check_masked_again },
	{ "epoll_wait", SYS_epoll_wait, LASTS, 0, 0, epoll_limit, setup, 0, 0 },
	{ "epoll_wait_raw", SYS_epoll_wait, LASTS, 0, 0, epoll_raw, setup, 0, 0 },
	{ "epoll_wait_forever", SYS_epoll_wait, FOREVER, 1, 0, epoll_forever, setup, wake, check_epoll },
	{ "epoll_pwait", SYS_epoll_pwait, LASTS, 0, 0, epoll_pwait_limit, setup, 0, 0 },
	{ "epoll_pwait_signal", SYS_epoll_pwait, FOREVER, -1, EINTR, epoll_pwait_forever, block_usr1,
	  wake_by_signal, check_masked_again },
	{ "epoll_pwait2", 441, LASTS, 0, 0, epoll_pwait2_limit, setup, 0, 0 },
	{ "epoll_pwait2_forever", 441, FOREVER, 1, 0, epoll_pwait2_forever, setup, wake, check_epoll },
	{ "epoll_loop", SYS_epoll_wait, CPU_TIME, 0, 0, epoll_loop, setup, 0,
	  check_one_round_late },
	{ "poll_loop", SYS_poll, CPU_TIME, 0, 0, poll_loop, setup, 0, check_both_rounds },
};

BLOCKED_PROGRAM(cases)

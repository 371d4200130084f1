/*
 * Threads that are blocked in calls of every kind while they are looked at: none may end early,
 * late by more than the looks took, or with EINTR.
 */
#include "selfcheck.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define LATE_NS 2000000000LL

static int never, over;
static int ends[2], event = -1, watch = -1;

static void expect(const char *what, long expected, long got)
{
	if (got != expected)
		fail("%s: expected %ld got %ld (errno %s)", what, expected, got, strerror(errno));
}

/* Sleeps of a third of a second, over and over, each of them whole. */
static void *sleeps(void *unused)
{
	while (!__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
		struct timespec time = { 0, 333000000 }, left = { 7, 7 };
		long long begun = clock_ns(CLOCK_MONOTONIC), took;

		expect("nanosleep", 0, syscall(SYS_nanosleep, &time, &left));
		took = clock_ns(CLOCK_MONOTONIC) - begun;
		if (took < 333000000 || took > 333000000 + LATE_NS)
			fail("nanosleep: took %lld ns", took);
		expect("time of the sleep", 333000000, time.tv_nsec);
	}
	return unused;
}

static void *waits_futex(void *unused)
{
	while (!__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
		struct timespec time = { 0, 400000000 };
		long result;

		errno = 0;
		result = syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, &time, 0, 0);
		if (result != -1 || errno != ETIMEDOUT)
			fail("futex: got %ld, errno %s", result, strerror(errno));
	}
	return unused;
}

static void *polls(void *unused)
{
	struct pollfd one = { .fd = event, .events = POLLIN };

	while (!__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
		expect("poll", 0, poll(&one, 1, 300));
		expect("ppoll", 0, ppoll(&one, 1, &(struct timespec){ 0, 200000000 }, 0));
	}
	return unused;
}

static void *waits_epoll(void *unused)
{
	struct epoll_event got;

	while (!__atomic_load_n(&over, __ATOMIC_SEQ_CST)) {
		long long begun = clock_ns(CLOCK_MONOTONIC), took;

		expect("epoll_wait", 0, epoll_wait(watch, &got, 1, 350));
		took = clock_ns(CLOCK_MONOTONIC) - begun;
		if (took < 345000000 || took > 350000000 + LATE_NS)
			fail("epoll_wait: took %lld ns", took);
	}
	return unused;
}

static void *reads(void *unused)
{
	char got = 0;

	expect("read of a pipe", 1, read(ends[0], &got, 1));
	expect("byte of the pipe", 'x', got);
	return unused;
}

static void *waits_for_ever(void *unused)
{
	struct epoll_event got = { 0 };

	expect("epoll_wait without limit", 1, epoll_wait(watch, &got, 1, -1));
	return unused;
}

int main(int argc, char **argv)
{
	void *(*const bodies[])(void *) = { sleeps, waits_futex, polls,
					    waits_epoll, reads, waits_for_ever };
	enum { COUNT = sizeof(bodies) / sizeof(*bodies) };
	pthread_t threads[COUNT];
	uint64_t one = 1;

	selfcheck_begin(argc, argv);
	REQUIRE(!pipe(ends));
	REQUIRE((event = eventfd(0, 0)) >= 0);
	REQUIRE((watch = epoll_create1(0)) >= 0);
	REQUIRE(!epoll_ctl(watch, EPOLL_CTL_ADD, event, &(struct epoll_event){ .events = EPOLLIN }));
	for (int i = 0; i < COUNT; i++)
		REQUIRE(!pthread_create(&threads[i], 0, bodies[i], 0));
	selfcheck_park();
	__atomic_store_n(&over, 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < COUNT - 2; i++)
		check_int("pthread_join", 0, pthread_join(threads[i], 0));
	check_int("write to the pipe", 1, write(ends[1], "x", 1));
	check_int("write to the eventfd", sizeof(one), write(event, &one, sizeof(one)));
	for (int i = COUNT - 2; i < COUNT; i++)
		check_int("pthread_join", 0, pthread_join(threads[i], 0));
	return selfcheck_end();
}

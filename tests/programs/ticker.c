/*
 * Never ends: threads that wait in calls of every restart class, each counting in DIR/counters how
 * often it went round, how often a call said EINTR, and how often a call did what it should not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WAIT_MS 5

struct counter {
	volatile uint64_t rounds, eintr, wrong, unused;
};

static struct counter *counters;
static int epoll_fd;
static uint32_t futex_word;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int wait_nanosleep(void)
{
	struct timespec time = {0, WAIT_MS * 1000000};

	return clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL) ? -errno : 0;
}

static int wait_epoll(void)
{
	struct epoll_event event;

	return epoll_wait(epoll_fd, &event, 1, WAIT_MS);
}

static int wait_sigtimedwait(void)
{
	struct timespec time = {0, WAIT_MS * 1000000};
	sigset_t set;
	int found;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	found = sigtimedwait(&set, NULL, &time);
	return found < 0 && errno == EAGAIN ? 0 : found;
}

static int wait_futex(void)
{
	struct timespec time = {0, WAIT_MS * 1000000};
	long found = syscall(SYS_futex, &futex_word, FUTEX_WAIT, 0, &time, NULL, 0);

	return found < 0 && errno == ETIMEDOUT ? 0 : found;
}

static int wait_poll(void)
{
	return poll(NULL, 0, WAIT_MS);
}

static int (*const waits[])(void) = {
	wait_nanosleep, wait_epoll, wait_sigtimedwait, wait_futex, wait_poll,
};

#define WAITS (sizeof(waits) / sizeof(waits[0]))

static void *run(void *index)
{
	struct counter *own = &counters[(uintptr_t)index];

	for (;;) {
		int found;

		errno = 0;
		found = waits[(uintptr_t)index]();
		if (found && errno == EINTR)
			own->eintr++;
		else if (found)
			own->wrong++;
		own->rounds++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	sigset_t set;
	pthread_t thread;
	int fd;

	if (argc < 2 || chdir(argv[1]))
		die("usage: ticker DIR");
	fd = open("counters", O_RDWR | O_CREAT, 0644);
	if (fd < 0 || ftruncate(fd, 4096))
		die("counters");
	counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (counters == MAP_FAILED)
		die("mmap");
	close(fd);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	epoll_fd = epoll_create1(0);
	for (uintptr_t i = 1; i < WAITS; i++)
		if (pthread_create(&thread, NULL, run, (void *)i))
			die("pthread_create");
	close(open("ready", O_WRONLY | O_CREAT, 0644));
	run(0);
}

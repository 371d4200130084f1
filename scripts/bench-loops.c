/*
 * What scripts/bench traces: a loop that does one thing that a trace hooks into, COUNT times, and
 * prints how many nanoseconds it took. Waits for a line on standard input before each round, so
 * that a trace can come and go between rounds of the same process.
 * Usage: bench-loops fork|futex COUNT
 */
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static _Atomic int ball;
static long count;

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void fork_and_exit(void)
{
	long i;
	pid_t child;

	for (i = 0; i < count; i++) {
		child = fork();
		if (child < 0)
			fail("fork");
		if (!child)
			_exit(0);
		if (waitpid(child, NULL, 0) != child)
			fail("waitpid");
	}
}

static void play(int side)
{
	long i;

	for (i = 0; i < count; i++) {
		while (atomic_load(&ball) != side)
			syscall(SYS_futex, &ball, FUTEX_WAIT_PRIVATE, !side, NULL, NULL, 0);
		atomic_store(&ball, !side);
		syscall(SYS_futex, &ball, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
}

static void *play_other_side(void *unused)
{
	play(1);
	return unused;
}

static void ping_pong(void)
{
	pthread_t other;

	if (pthread_create(&other, NULL, play_other_side, NULL))
		fail("pthread_create");
	play(0);
	pthread_join(other, NULL);
}

int main(int argc, char **argv)
{
	void (*run)(void);
	char line[16];
	long long start;

	if (argc != 3 || (count = atol(argv[2])) <= 0)
		return 2;
	run = strcmp(argv[1], "fork") ? ping_pong : fork_and_exit;
	while (fgets(line, sizeof(line), stdin)) {
		start = now_ns();
		run();
		printf("%lld\n", now_ns() - start);
		fflush(stdout);
	}
	return 0;
}

/*
 * What scripts/demo shows: threads that count, in memory only, and one that sleeps once for a long
 * time. Each line goes to standard output as it happens. Ends when a file named "finish" appears.
 * Usage: demo-workload SLEEP_SECONDS
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define COUNTERS 3
#define TICK_MS 200

static _Atomic int finish;
static long sleep_s;

struct counter {
	uint64_t steps;
	uint64_t hash;
};

static uint64_t step(uint64_t hash, uint64_t n)
{
	hash = (hash ^ n) * 0x9E3779B97F4A7C15ULL;
	return hash ^ (hash >> 29);
}

static void pause_ms(long ms)
{
	const struct timespec pause = { .tv_nsec = ms * 1000000 };

	nanosleep(&pause, NULL);
}

static void *count(void *argument)
{
	struct counter *mine = argument;

	while (!finish) {
		for (int i = 0; i < 1000; i++)
			mine->hash = step(mine->hash, mine->steps++);
		pause_ms(1);
	}
	return NULL;
}

static double monotonic_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static void *sleep_once(void *unused)
{
	const struct timespec whole = { .tv_sec = sleep_s };
	double start = monotonic_s();
	int result;

	printf("sleeper: one nanosleep of %ld s begins\n", sleep_s);
	result = nanosleep(&whole, NULL);
	printf("sleeper: nanosleep ended after %.3f s: %s\n", monotonic_s() - start,
	       result == 0 ? "in full" : strerror(errno));
	return unused;
}

static int is_right(const struct counter *counter)
{
	uint64_t hash = 0;

	for (uint64_t n = 0; n < counter->steps; n++)
		hash = step(hash, n);
	return hash == counter->hash;
}

int main(int argc, char **argv)
{
	static struct counter counters[COUNTERS];
	pthread_t threads[COUNTERS], sleeper;
	int right = 1;

	sleep_s = argc == 2 ? atol(argv[1]) : 0;
	if (sleep_s <= 0)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 0; i < COUNTERS; i++)
		if (pthread_create(&threads[i], NULL, count, &counters[i]) != 0)
			return 2;
	if (pthread_create(&sleeper, NULL, sleep_once, NULL) != 0)
		return 2;
	for (int n = 1; access("finish", F_OK) != 0; n++) {
		pause_ms(TICK_MS);
		printf("count %d\n", n);
	}
	pthread_join(sleeper, NULL);
	finish = 1;
	for (int i = 0; i < COUNTERS; i++) {
		pthread_join(threads[i], NULL);
		right &= is_right(&counters[i]);
	}
	printf("counters: %s\n", right ? "every step there, once and in order" : "WRONG");
	return !right;
}

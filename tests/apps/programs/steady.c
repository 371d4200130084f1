/*
 * A process whose every resource is constant: whatever grows over many snapshots and restores was
 * added by them. Four threads sleep and count, the first one also checks a block of memory that
 * nobody changes, and prints. Ends when a file named "finish" appears.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define SIDE_THREADS 3
#define BLOCK (1 << 20)

static _Atomic int finish;
static _Atomic unsigned long counts[SIDE_THREADS];
static unsigned char block[BLOCK];

static void pause_ms(long ms)
{
	const struct timespec pause = { .tv_nsec = ms * 1000 * 1000 };

	nanosleep(&pause, NULL);
}

static void *count(void *mine)
{
	while (!finish) {
		pause_ms(3);
		++*(_Atomic unsigned long *)mine;
	}
	return NULL;
}

static unsigned long count_wrong(void)
{
	unsigned long wrong = 0;

	for (long i = 0; i < BLOCK; i++)
		wrong += block[i] != (unsigned char)(i * 31 + i / 4096);
	return wrong;
}

int main(void)
{
	static char line[64];
	pthread_t threads[SIDE_THREADS];
	int pipe_fds[2], event;
	unsigned long n, value;

	for (long i = 0; i < BLOCK; i++)
		block[i] = i * 31 + i / 4096;
	event = eventfd(7, EFD_NONBLOCK);
	if (event < 0 || pipe(pipe_fds) != 0 || write(pipe_fds[1], "hello", 5) != 5)
		return 2;
	for (int i = 0; i < SIDE_THREADS; i++)
		if (pthread_create(&threads[i], NULL, count, &counts[i]) != 0)
			return 2;
	for (n = 0; access("finish", F_OK) != 0; n++) {
		pause_ms(5);
		int length = snprintf(line, sizeof(line), "tick %lu %lu\n", n, count_wrong());
		if (write(1, line, length) != length)
			return 2;
	}
	finish = 1;
	for (int i = 0; i < SIDE_THREADS; i++)
		pthread_join(threads[i], NULL);
	if (read(event, &value, sizeof(value)) != sizeof(value) || value != 7)
		return 1;
	if (read(pipe_fds[0], line, sizeof(line)) != 5 || memcmp(line, "hello", 5) != 0)
		return 1;
	puts("DONE");
	return 0;
}

/*
 * Threads whose stacks are worth unwinding: blocked in libc calls below functions that keep no frame
 * pointer, in a signal handler on an alternate stack that interrupted a call, in a callback of
 * qsort, and with a frame that is realigned.
 *
 * Compiled with -O2 -fomit-frame-pointer by the test. Usage: show_stacks DIR
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "selfcheck.h"

#define KEEP __attribute__((noinline, noipa))

enum { THREADS = 5, STACK_BYTES = 64 * 1024 };

/* What the memory view is asked for. */
int show_numbers[4] = { 0x11111111, 0x22222222, 0x33333333, 0x44444444 };
char show_text[64] = "a\tline with \"quotes\", \x1b[31mcolour\n";
uint64_t show_zeroed[8192];

static pthread_barrier_t ready;
static pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
static int never[2];
static volatile int reached;
static volatile pid_t poller;
static volatile sig_atomic_t sink;

KEEP int wait_in_read(int depth)
{
	char byte;

	if (depth > 0) {
		volatile int deeper = wait_in_read(depth - 1);

		return deeper + depth;
	}
	return (int)read(never[0], &byte, 1) + sink;
}

KEEP void on_usr1(int signo)
{
	alignas(64) volatile char room[256];

	room[0] = (char)signo;
	__atomic_add_fetch(&reached, 1, __ATOMIC_SEQ_CST);
	sink += wait_in_read(2) + room[0];
}

KEEP int wait_in_poll(int timeout_ms)
{
	struct pollfd item = { .fd = never[0], .events = POLLIN };

	return poll(&item, 1, timeout_ms) + sink;
}

static int compare(const void *left, const void *right)
{
	sink += wait_in_poll(-1);
	return *(const int *)left - *(const int *)right;
}

KEEP int sort_and_wait(void)
{
	int numbers[2] = { 2, 1 };

	qsort(numbers, 2, sizeof(numbers[0]), compare);
	return numbers[0] + sink;
}

KEEP int lock_and_wait(void)
{
	pthread_mutex_lock(&held);
	return sink + 1;
}

/* Its frame moves with n and is aligned by hand: rbp or another register must lead back. */
KEEP int sleep_realigned(size_t n)
{
	alignas(64) volatile char aligned[64];
	volatile char *room = __builtin_alloca(n);
	struct timespec long_time = { .tv_sec = 1000 };

	aligned[1] = room[n - 1] = 1;
	return nanosleep(&long_time, NULL) + aligned[1] + room[n - 1];
}

KEEP int wait_in_epoll(long fd)
{
	struct epoll_event event;

	return epoll_wait((int)fd, &event, 1, -1) + sink;
}

static void *run(void *argument)
{
	long which = (long)argument;
	stack_t stack = { .ss_size = STACK_BYTES, .ss_sp = malloc(STACK_BYTES) };

	CHECK(sigaltstack(&stack, NULL) == 0);
	if (which == 0)
		poller = gettid();
	pthread_barrier_wait(&ready);
	if (which == 0)
		sink += wait_in_poll(-1); /* SIGUSR1 comes in here */
	if (which == 1)
		sink += sort_and_wait();
	if (which == 2)
		sink += lock_and_wait();
	if (which == 3)
		sink += sleep_realigned(100 + (size_t)which);
	if (which == 4)
		sink += wait_in_epoll(epoll_create1(0));
	return NULL;
}

/* The signal is to interrupt poll, and nothing on the way to it. */
static int is_in_poll(pid_t tid)
{
	char path[64], text[16] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)tid);
	file = fopen(path, "r");
	if (file == NULL)
		return 0;
	if (fgets(text, sizeof(text), file) == NULL)
		text[0] = '\0';
	fclose(file);
	return atoi(text) == SYS_poll && text[0] != 'r';
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = SA_ONSTACK };
	pthread_t threads[THREADS];

	selfcheck_begin(argc, argv);
	CHECK(pipe(never) == 0);
	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	pthread_barrier_init(&ready, NULL, THREADS + 1);
	pthread_mutex_lock(&held);
	show_zeroed[4000] = 0x5555555566666666;
	for (long i = 0; i < THREADS; i++)
		CHECK(pthread_create(&threads[i], NULL, run, (void *)i) == 0);
	pthread_barrier_wait(&ready);
	while (!is_in_poll(poller))
		usleep(1000);
	pthread_kill(threads[0], SIGUSR1);
	while (reached == 0)
		usleep(1000);
	selfcheck_ready();
	return wait_in_read(3);
}

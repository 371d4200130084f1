/*
 * What scripts/bench snapshots: a process of a given kind and size, with a thread that ticks every
 * millisecond and keeps, in a shared file, the longest time that it did not get to tick.
 * Usage: bench-target SHARED_FILE small|memory|threads|areas|descriptors COUNT
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define STACK (64 * 1024)
#define TICK_NS 1000000

/* scripts/lib/bench.py reads this layout from the file. */
struct board {
	_Atomic uint64_t ready;
	_Atomic uint64_t ticks;
	_Atomic uint64_t max_gap_ns;
	_Atomic uint64_t reset;
};

static struct board *board;

static void fail(const char *what)
{
	perror(what);
	exit(2);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void *tick(void *unused)
{
	const struct timespec pause = { .tv_nsec = TICK_NS };
	uint64_t last = now_ns(), now;

	for (;;) {
		nanosleep(&pause, NULL);
		now = now_ns();
		if (atomic_exchange(&board->reset, 0))
			board->max_gap_ns = 0;
		else if (now - last > board->max_gap_ns)
			board->max_gap_ns = now - last;
		last = now;
		board->ticks++;
	}
	return unused;
}

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void start_thread(void *(*body)(void *))
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK);
	if (pthread_create(&thread, &attributes, body, NULL) != 0)
		fail("pthread_create");
}

/* Content that neither compresses nor repeats. */
static void make_memory(size_t mebibytes)
{
	size_t words = mebibytes * (1 << 20) / sizeof(uint64_t);
	uint64_t *memory = mmap(NULL, words * sizeof(uint64_t), PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t value = 0x9E3779B97F4A7C15ULL;

	if (memory == MAP_FAILED)
		fail("mmap");
	for (size_t i = 0; i < words; i++) {
		value ^= value << 13;
		value ^= value >> 7;
		value ^= value << 17;
		memory[i] = value;
	}
}

/* One page each, writable and touched in turn with read-only, so that no two can merge. */
static void make_areas(size_t count)
{
	char *memory = mmap(NULL, count * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	for (size_t i = 0; i < count; i += 2) {
		if (mprotect(memory + i * PAGE, PAGE, PROT_READ | PROT_WRITE) != 0)
			fail("mprotect");
		memory[i * PAGE] = 1 + i % 255;
	}
}

/* Every one an open file description of its own, at a position of its own. */
static void make_descriptors(const char *path, size_t count)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
		fail("getrlimit");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
		fail("setrlimit");
	for (size_t i = 0; i < count; i++) {
		int fd = open(path, O_RDONLY);

		if (fd < 0 || lseek(fd, i, SEEK_SET) < 0)
			fail(path);
	}
}

int main(int argc, char **argv)
{
	if (argc != 4) {
		fprintf(stderr, "usage: %s SHARED_FILE KIND COUNT\n", argv[0]);
		return 2;
	}
	const char *path = argv[1], *kind = argv[2];
	size_t count = strtoul(argv[3], NULL, 10);
	int fd = open(path, O_RDWR);

	if (fd < 0)
		fail(path);
	board = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (board == MAP_FAILED)
		fail("mmap");
	close(fd);
	if (strcmp(kind, "memory") == 0)
		make_memory(count);
	else if (strcmp(kind, "areas") == 0)
		make_areas(count);
	else if (strcmp(kind, "descriptors") == 0)
		make_descriptors(argv[0], count);
	else if (strcmp(kind, "threads") == 0)
		for (size_t i = 0; i < count; i++)
			start_thread(wait_for_ever);
	else if (strcmp(kind, "small") != 0)
		return 2;
	start_thread(tick);
	board->ready = 1;
	wait_for_ever(NULL);
}

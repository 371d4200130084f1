/* A multi-threaded process that goes through many rounds and reports its own size after each. */
#include "selfcheck_threads.h"
#include <sys/eventfd.h>
#include <sys/socket.h>

#define THREADS 5

static volatile long ticks[THREADS];
static volatile int stop;
static int pair[2], event;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static long guarded;

static void *tick(void *arg)
{
	long index = (long)arg;
	struct timespec ms = { 0, 1000000 };

	while (!stop) {
		if (nanosleep(&ms, 0))
			fail("nanosleep: expected success got %s", strerror(errno));
		pthread_mutex_lock(&mutex);
		guarded++;
		ticks[index]++;
		pthread_mutex_unlock(&mutex);
	}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned char *big;
	pthread_t threads[THREADS];
	char byte = 0;
	long sum = 0;

	selfcheck_begin(argc, argv);
	big = mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(big != MAP_FAILED);
	for (int i = 0; i < 8 << 20; i += 4096)
		big[i] = (unsigned char)(i >> 12);
	event = eventfd(7, 0);
	REQUIRE(event >= 0 && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair) && write(pair[0], "q", 1) == 1);
	for (long i = 0; i < THREADS; i++)
		REQUIRE(!pthread_create(&threads[i], 0, tick, (void *)i));
	selfcheck_park();
	stop = 1;
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], 0);
		sum += ticks[i];
	}
	check_int("sum of the ticks", guarded, sum);
	if (sum < 100)
		fail("ticks: expected at least 100 got %ld", sum);
	for (int i = 0; i < 8 << 20; i += 4096)
		check_int("byte", (unsigned char)(i >> 12), big[i]);
	check_int("queued byte", 1, read(pair[1], &byte, 1));
	check_int("its value", 'q', byte);
	return selfcheck_end();
}

/* The word that a thread's end clears and wakes: pthread_join and a raw futex wait on it. */
#include "selfcheck_threads.h"
#include <linux/futex.h>

static volatile int own_word;

static void build(struct worker *w)
{
	if (w->index == 1) {
		own_word = w->tid;
		REQUIRE(syscall(SYS_set_tid_address, &own_word) == w->tid);
	}
	w->data[0] = 1;
}

static void check(struct worker *w)
{
	w->data[0] = 2;
	if (w->index == 1)
		syscall(SYS_exit, 0); /* without pthread's clean-up */
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 };
	long long deadline;

	selfcheck_begin(argc, argv);
	pthread_barrier_init(&threads_built, 0, 3);
	pthread_barrier_init(&threads_go, 0, 3);
	for (int i = 0; i < 2; i++) {
		workers[i].index = i;
		workers[i].build = build;
		workers[i].check = check;
		REQUIRE(!pthread_create(&workers[i].thread, 0, worker_main, &workers[i]));
	}
	pthread_barrier_wait(&threads_built);
	selfcheck_park();
	pthread_barrier_wait(&threads_go);
	check_int("pthread_join", 0, pthread_join(workers[0].thread, 0));
	deadline = clock_ns(CLOCK_MONOTONIC) + 2000000000LL;
	while (own_word && clock_ns(CLOCK_MONOTONIC) < deadline) {
		struct timespec part = { 0, 200000000 };

		syscall(SYS_futex, &own_word, FUTEX_WAIT, workers[1].tid, &part, 0, 0);
	}
	check_int("word cleared at the thread's end", 0, own_word);
	return selfcheck_end();
}

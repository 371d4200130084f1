/* Threads that build state of their own, park on a futex, and check themselves afterwards. */
#ifndef SELFCHECK_THREADS_H
#define SELFCHECK_THREADS_H

#include "selfcheck.h"

static pthread_barrier_t threads_built, threads_go;

struct worker {
	pthread_t thread;
	int index;
	pid_t tid;
	void (*build)(struct worker *);
	void (*check)(struct worker *);
	long data[32];
};

static UNUSED void *worker_main(void *arg)
{
	struct worker *w = arg;

	w->tid = gettid();
	w->build(w);
	pthread_barrier_wait(&threads_built);
	pthread_barrier_wait(&threads_go);
	check_int("gettid", w->tid, gettid());
	w->check(w);
	return 0;
}

/* Builds `count` workers, parks, lets them check themselves, joins them. */
static UNUSED void run_workers(struct worker *workers, int count, void (*build)(struct worker *),
			       void (*check)(struct worker *))
{
	pthread_barrier_init(&threads_built, 0, (unsigned)count + 1);
	pthread_barrier_init(&threads_go, 0, (unsigned)count + 1);
	for (int i = 0; i < count; i++) {
		workers[i].index = i;
		workers[i].build = build;
		workers[i].check = check;
		REQUIRE(!pthread_create(&workers[i].thread, 0, worker_main, &workers[i]));
	}
	pthread_barrier_wait(&threads_built);
	selfcheck_park();
	pthread_barrier_wait(&threads_go);
	for (int i = 0; i < count; i++)
		check_int("pthread_join", 0, pthread_join(workers[i].thread, 0));
}

#endif

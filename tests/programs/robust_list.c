/* The robust list head of each thread; a holder that ends leaves EOWNERDEAD behind. */
#include "selfcheck_threads.h"

static pthread_mutex_t robust;
static char own_head[64] __attribute__((aligned(8)));

static void build(struct worker *w)
{
	void *head = 0;

	if (w->index == 0)
		REQUIRE(!pthread_mutex_lock(&robust));
	if (w->index == 1) {
		*(void **)own_head = own_head;
		REQUIRE(!syscall(SYS_set_robust_list, own_head, 24L));
	}
	REQUIRE(!syscall(SYS_get_robust_list, 0, &head, &w->data[1]));
	w->data[0] = (long)head;
}

static void check(struct worker *w)
{
	long head = 0, len = 0;

	syscall(SYS_get_robust_list, 0, &head, &len);
	check_int("robust list head", w->data[0], head);
	check_int("robust list length", w->data[1], len);
}

int main(int argc, char **argv)
{
	struct worker workers[3] = { 0 };
	pthread_mutexattr_t attr;
	struct timespec limit;

	selfcheck_begin(argc, argv);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	run_workers(workers, 3, build, check);
	check_int("robust list head of worker 1", (long)own_head, workers[1].data[0]);
	clock_gettime(CLOCK_REALTIME, &limit);
	limit.tv_sec += 2;
	check_int("mutex of a dead owner", EOWNERDEAD, pthread_mutex_timedlock(&robust, &limit));
	return selfcheck_end();
}

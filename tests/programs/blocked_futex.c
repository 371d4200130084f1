/* Futex waits: with and without limits, bitset, requeue to a PI futex, waitv, libc's own. */
#include "blocked.h"
#include <limits.h>
#include <linux/futex.h>
#include <semaphore.h>

static int word, *shared_word;
static struct timespec absolute;
static sem_t semaphore;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition;

static long futex(int *at, int operation, int value, const struct timespec *ts, unsigned bits)
{
	return syscall(SYS_futex, at, operation, value, ts, 0, bits);
}

static void setup(void)
{
	pthread_condattr_t attr;

	keep(&limit_ts, sizeof(limit_ts));
	shared_word = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	REQUIRE(shared_word != MAP_FAILED && !sem_init(&semaphore, 0, 0));
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&condition, &attr);
}

static long wait_limit(void)
{
	return futex(&word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, &limit_ts, 0);
}

static long wait_shared(void)
{
	return futex(shared_word, FUTEX_WAIT, 0, &limit_ts, 0);
}

static long wait_forever(void)
{
	return futex(&word, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, 0, 0);
}

static long wait_shared_forever(void)
{
	return futex(shared_word, FUTEX_WAIT, 0, 0, 0);
}

static void wake(void)
{
	check_int("woken", 1, futex(&word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, INT_MAX, 0, 0));
}

static void wake_shared(void)
{
	check_int("woken", 1, futex(shared_word, FUTEX_WAKE, INT_MAX, 0, 0));
}

static long bitset_limit(void)
{
	absolute = from_now(CLOCK_MONOTONIC, limit_ns);
	keep(&absolute, sizeof(absolute));
	return futex(&word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, &absolute, 0x10);
}

static long bitset_realtime(void)
{
	absolute = from_now(CLOCK_REALTIME, real_limit_ns);
	keep(&absolute, sizeof(absolute));
	return futex(&word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME, 0, &absolute,
		     0x10);
}

static long bitset_forever(void)
{
	return futex(&word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, 0, 0, 0x10);
}

static void wake_bitset(void)
{
	check_int("woken by other bits", 0, futex(&word, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 9, 0, 0x0f));
	check_int("woken", 1, futex(&word, FUTEX_WAKE_BITSET | FUTEX_PRIVATE_FLAG, 9, 0, 0x10));
}

static void setup_pi(void)
{
	word = gettid(); /* held by the main thread */
}

static long lock_pi(void)
{
	return futex(&word, FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0);
}

static void unlock_pi(void)
{
	check_int("FUTEX_UNLOCK_PI", 0, futex(&word, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG, 0, 0, 0));
}

struct waitv { /* struct futex_waitv, include/uapi/linux/futex.h */
	uint64_t value, address;
	uint32_t flags, reserved;
};

static long waitv_limit(void)
{
	static int second;
	struct waitv waits[2] = { { 0, (uint64_t)&word, 2 | FUTEX_PRIVATE_FLAG, 0 },
				  { 0, (uint64_t)&second, 2 | FUTEX_PRIVATE_FLAG, 0 } };

	absolute = from_now(CLOCK_MONOTONIC, limit_ns);
	keep(&absolute, sizeof(absolute));
	return syscall(449 /* SYS_futex_waitv */, waits, 2, 0, &absolute, CLOCK_MONOTONIC);
}

static long libc_semaphore(void)
{
	absolute = from_now(CLOCK_REALTIME, real_limit_ns);
	return sem_timedwait(&semaphore, &absolute);
}

static long libc_semaphore_forever(void)
{
	return sem_wait(&semaphore);
}

static void post(void)
{
	sem_post(&semaphore);
}

static long libc_condition(void)
{
	long rc;

	absolute = from_now(CLOCK_MONOTONIC, limit_ns);
	pthread_mutex_lock(&mutex);
	rc = pthread_cond_timedwait(&condition, &mutex, &absolute);
	pthread_mutex_unlock(&mutex);
	return rc;
}

static const struct blocked_case cases[] = {
	{ "wait", SYS_futex, LASTS, -1, ETIMEDOUT, wait_limit, setup, 0, 0 },
	{ "wait_shared", SYS_futex, LASTS, -1, ETIMEDOUT, wait_shared, setup, 0, 0 },
	{ "wait_forever", SYS_futex, FOREVER, 0, 0, wait_forever, setup, wake, 0 },
	{ "wait_shared_forever", SYS_futex, FOREVER, 0, 0, wait_shared_forever, setup, wake_shared, 0 },
	{ "wait_signal", SYS_futex, FOREVER, -1, EINTR, wait_forever, setup_handler, wake_by_signal, 0 },
	{ "bitset", SYS_futex, LASTS, -1, ETIMEDOUT, bitset_limit, setup, 0, 0 },
	{ "bitset_realtime", SYS_futex, UNTIL_REALTIME, -1, ETIMEDOUT, bitset_realtime, setup, 0, 0 },
	{ "bitset_forever", SYS_futex, FOREVER, 0, 0, bitset_forever, setup, wake_bitset, 0 },
	{ "lock_pi", SYS_futex, FOREVER, 0, 0, lock_pi, setup_pi, unlock_pi, 0 },
	{ "waitv", 449, LASTS, -1, ETIMEDOUT, waitv_limit, setup, 0, 0 },
	{ "libc_semaphore", SYS_futex, UNTIL_REALTIME, -1, ETIMEDOUT, libc_semaphore, setup, 0, 0 },
	{ "libc_semaphore_forever", SYS_futex, FOREVER, 0, 0, libc_semaphore_forever, setup, post, 0 },
	{ "libc_condition", SYS_futex, LASTS, ETIMEDOUT, 0, libc_condition, setup, 0, 0 },
};

BLOCKED_PROGRAM(cases)

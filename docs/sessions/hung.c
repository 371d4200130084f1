/*
 * Hangs for ever: two tellers move money between two accounts, each locking first the account that
 * it takes from. docs/debugging.md finds out by `ckpt-bpf inspect` who waits for whom.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

struct account {
	pthread_mutex_t lock;
	long balance;
};

struct transfer {
	struct account *from, *to;
};

static struct account savings = { .balance = 1000 };
static struct account checking = { .balance = 1000 };
static pthread_barrier_t both_hold_one;

static void *teller(void *argument)
{
	struct transfer *order = argument;

	pthread_mutex_lock(&order->from->lock);
	pthread_barrier_wait(&both_hold_one);
	pthread_mutex_lock(&order->to->lock);
	order->from->balance -= 1;
	order->to->balance += 1;
	pthread_mutex_unlock(&order->to->lock);
	pthread_mutex_unlock(&order->from->lock);
	return NULL;
}

int main(void)
{
	struct transfer orders[2] = { { &savings, &checking }, { &checking, &savings } };
	pthread_mutexattr_t robust;
	pthread_t threads[2];

	/* Robust locks are on a list that the kernel knows, so each shows who holds it. */
	pthread_mutexattr_init(&robust);
	pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&savings.lock, &robust);
	pthread_mutex_init(&checking.lock, &robust);
	pthread_barrier_init(&both_hold_one, NULL, 2);

	for (int i = 0; i < 2; i++)
		pthread_create(&threads[i], NULL, teller, &orders[i]);
	pthread_setname_np(threads[0], "teller-0");
	pthread_setname_np(threads[1], "teller-1");
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("%ld %ld\n", savings.balance, checking.balance);
	return 0;
}

/* Alternate signal stacks: unused, autodisarmed, and one that a handler is on meanwhile. */
#include "selfcheck_threads.h"

#define SIZE 32768
#define AUTODISARM (1 << 31) /* SS_AUTODISARM, include/uapi/linux/signal.h */

static volatile int handler_entered, handler_go, handler_on_stack;
static char stacks[4][SIZE] __attribute__((aligned(64)));

static void on_usr1(int sig)
{
	stack_t now;
	char local;

	(void)sig;
	handler_entered = 1;
	while (!handler_go)
		sleep_ms(5);
	sigaltstack(0, &now);
	handler_on_stack = (now.ss_flags & SS_ONSTACK) && &local > stacks[3] && &local < stacks[3] + SIZE;
}

static void build(struct worker *w)
{
	stack_t stack = { .ss_sp = stacks[w->index], .ss_size = SIZE - (size_t)w->index * 1024 };

	if (w->index == 1)
		stack.ss_flags = (int)AUTODISARM;
	if (w->index == 2)
		return;
	REQUIRE(!sigaltstack(&stack, 0));
}

static void check(struct worker *w)
{
	stack_t got;

	check_int("sigaltstack", 0, sigaltstack(0, &got));
	if (w->index == 2) {
		check_int("flags without a stack", SS_DISABLE, got.ss_flags);
		return;
	}
	check_int("ss_sp", (long)stacks[w->index], (long)got.ss_sp);
	check_int("ss_size", SIZE - w->index * 1024, (long)got.ss_size);
	check_int("ss_flags", w->index == 1 ? (int)AUTODISARM : 0, got.ss_flags);
}

static void *on_its_stack(void *arg)
{
	stack_t stack = { .ss_sp = stacks[3], .ss_size = SIZE }, got;

	(void)arg;
	REQUIRE(!sigaltstack(&stack, 0));
	raise(SIGUSR1);
	sigaltstack(0, &got);
	check_int("flags after the handler", 0, got.ss_flags);
	check_int("ss_sp after the handler", (long)stacks[3], (long)got.ss_sp);
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = SA_ONSTACK };
	struct worker workers[3] = { 0 };
	pthread_t thread;

	selfcheck_begin(argc, argv);
	sigaction(SIGUSR1, &action, 0);
	REQUIRE(!pthread_create(&thread, 0, on_its_stack, 0));
	while (!handler_entered)
		sleep_ms(1);
	run_workers(workers, 3, build, check);
	handler_go = 1;
	pthread_join(thread, 0);
	check_int("handler still on its alternate stack", 1, handler_on_stack);
	return selfcheck_end();
}

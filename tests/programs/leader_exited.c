/* A process whose main thread has ended by pthread_exit while others go on. */
#include "selfcheck_proc.h"
#include "selfcheck_threads.h"

static char *heap_word;

static void *rest(void *arg)
{
	char state[16] = "";
	pid_t tid = gettid();

	while (state[0] != 'Z') {
		sleep_ms(1);
		proc_thread_status(getpid(), "State", state, sizeof(state));
	}
	selfcheck_park();
	check_int("tid of the second thread", tid, gettid());
	check_str("heap", "kept", heap_word);
	proc_thread_status(getpid(), "State", state, sizeof(state));
	check_int("state of the leader", 'Z', state[0]);
	exit(selfcheck_end());
	return arg;
}

static void *third(void *arg)
{
	(void)arg;
	for (;;)
		pause();
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	selfcheck_begin(argc, argv);
	heap_word = strdup("kept");
	REQUIRE(!pthread_create(&thread, 0, third, 0));
	REQUIRE(!pthread_create(&thread, 0, rest, 0));
	pthread_exit(0);
}

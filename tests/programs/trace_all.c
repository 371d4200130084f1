/*
 * Does once what `ckpt-bpf trace` can see, and says on standard output what it did: "name value"
 * lines, numbers in decimal. Ends by executing itself, and then by SIGTERM. With an argument it
 * does one thing for long: `signals COUNT` raises SIGUSR1 so often; `parent` waits for a line and
 * then forks a child that forks a grandchild; `wait` waits on a futex for ever.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* A failure says where, and ends the run. */
#define REQUIRE(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
			exit(2); \
		} \
	} while (0)

static pthread_mutex_t robust, taken;
static char stack[65536];
static _Atomic int word;
static int ready[2];

static void say(const char *name, long long value)
{
	printf("%s %lld\n", name, value);
	fflush(stdout);
}

static void handler(int signo)
{
	(void)signo;
}

static void handle(int signo, int flags)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags };

	REQUIRE(!sigaction(signo, &action, NULL));
}

static void *dies_with_lock(void *unused)
{
	prctl(PR_SET_NAME, "dying\033[2J");
	say("owner", syscall(SYS_gettid));
	pthread_mutex_lock(&robust);
	pthread_mutex_lock(&taken);
	pthread_mutex_unlock(&taken);
	REQUIRE(write(ready[1], "x", 1) == 1);
	usleep(100000);
	return unused;
}

static void robust_death(void)
{
	pthread_mutexattr_t kind;
	pthread_t owner;
	char byte;

	REQUIRE(!pipe(ready));
	pthread_mutexattr_init(&kind);
	pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &kind);
	pthread_mutex_init(&taken, &kind);
	REQUIRE(!pthread_create(&owner, NULL, dies_with_lock, NULL));
	REQUIRE(read(ready[0], &byte, 1) == 1);
	REQUIRE(pthread_mutex_lock(&robust) == EOWNERDEAD);
	pthread_mutex_consistent(&robust);
	pthread_mutex_unlock(&robust);
	pthread_join(owner, NULL);
	say("robust", (long)&robust.__data.__lock);
}

static void child_that_ends(void)
{
	pid_t child = fork();

	if (!child)
		_exit(7);
	say("child", child);
	REQUIRE(waitpid(child, NULL, 0) == child);
}

static void alternate_stack(void)
{
	stack_t use = { .ss_sp = stack, .ss_size = sizeof(stack) };

	REQUIRE(!sigaltstack(&use, NULL));
	handle(SIGUSR1, SA_ONSTACK);
	REQUIRE(!raise(SIGUSR1));
	say("stack", (long)stack);
	say("handler", (long)handler);
}

static void interrupted_read(void)
{
	struct itimerval once = { .it_value.tv_usec = 50000 };
	char byte;

	handle(SIGALRM, 0);
	REQUIRE(!setitimer(ITIMER_REAL, &once, NULL));
	REQUIRE(read(ready[0], &byte, 1) < 0 && errno == EINTR);
	say("pipe", ready[0]);
}

/* A child stops us and lets us go on: the poll is interrupted and restarted. */
static void restarted_poll(void)
{
	pid_t us = getpid(), child = fork();

	if (!child) {
		usleep(100000);
		kill(us, SIGSTOP);
		usleep(100000);
		kill(us, SIGCONT);
		_exit(0);
	}
	say("stopper", child);
	REQUIRE(poll(NULL, 0, 400) == 0);
	REQUIRE(waitpid(child, NULL, 0) == child);
}

static void futex_wait_ms(long ms)
{
	struct timespec time = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	REQUIRE(syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, NULL, 0) < 0);
	REQUIRE(errno == ETIMEDOUT);
}

static void slow_futex(void)
{
	for (int i = 0; i < 5; i++)
		futex_wait_ms(1);
	futex_wait_ms(250);
	say("futex", (long)&word);
}

static void parent(void)
{
	char line[16];

	say("ready", getpid());
	REQUIRE(fgets(line, sizeof(line), stdin));
	if (!fork()) {
		pid_t grandchild = fork();

		if (!grandchild)
			_exit(3);
		say("grandchild", grandchild);
		waitpid(grandchild, NULL, 0);
		_exit(4);
	}
	wait(NULL);
}

int main(int argc, char **argv)
{
	if (argc > 2 && !strcmp(argv[1], "signals")) {
		handle(SIGUSR1, 0);
		say("ready", getpid());
		getchar();
		for (long i = atol(argv[2]); i > 0; i--)
			raise(SIGUSR1);
		say("raised", atol(argv[2]));
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "parent")) {
		parent();
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "wait")) {
		say("ready", getpid());
		say("futex", (long)&word);
		syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		return 1;
	}
	if (argc > 1) {
		raise(SIGTERM);
		return 1;
	}
	say("pid", getpid());
	child_that_ends();
	robust_death();
	alternate_stack();
	interrupted_read();
	restarted_poll();
	slow_futex();
	execl("/proc/self/exe", argv[0], "end", (char *)NULL);
	return 1;
}

/*
 * A call that a handled signal really broke off while the process was stopped.  The harness
 * stops the process, sends SIGUSR1 and lets it go on after the snapshot: EINTR must stay EINTR,
 * and an SA_RESTART call (argument "read") must go on.
 */
#include "selfcheck.h"
#include <poll.h>
#include <sys/epoll.h>

static volatile int handled, done;
static struct timespec rem;
static const char *kind;
static int pipe_fds[2], epoll;
static long rc;
static int error;
static volatile int blocked_tid;

static void on_usr1(int sig)
{
	(void)sig;
	handled++;
}

static void *block(void *arg)
{
	const struct timespec minute = { 60, 0 };
	struct epoll_event event;
	char byte;

	blocked_tid = (int)syscall(SYS_gettid);
	if (!strcmp(kind, "nanosleep"))
		rc = syscall(SYS_nanosleep, &minute, &rem);
	else if (!strcmp(kind, "epoll_wait"))
		rc = syscall(SYS_epoll_wait, epoll, &event, 1, 60000);
	else if (!strcmp(kind, "poll"))
		rc = syscall(SYS_poll, 0, 0, 60000);
	else
		rc = read(pipe_fds[0], &byte, 1);
	error = errno;
	done = 1;
	return arg;
}

/* A signal that came before the call would be handled before it, and break nothing off. */
static int is_blocked(void)
{
	char path[64], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", blocked_tid);
	file = blocked_tid ? fopen(path, "r") : 0;
	if (!file)
		return 0;
	if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	fclose(file);
	return state == 'S';
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_usr1 };
	long long deadline;
	pthread_t thread;
	sigset_t usr1;
	int restarts;

	selfcheck_begin(argc, argv);
	kind = argc > 2 ? argv[2] : "nanosleep";
	restarts = !strcmp(kind, "read");
	if (restarts)
		action.sa_flags = SA_RESTART;
	REQUIRE(!sigaction(SIGUSR1, &action, 0) && !pipe(pipe_fds));
	epoll = epoll_create1(0);
	REQUIRE(!pthread_create(&thread, 0, block, 0));
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	REQUIRE(!pthread_sigmask(SIG_BLOCK, &usr1, 0)); /* so the other thread takes it */
	while (!is_blocked())
		sleep_ms(1);
	selfcheck_park();
	deadline = clock_ns(CLOCK_MONOTONIC) + 3000000000LL;
	while ((!handled || (!restarts && !done)) && clock_ns(CLOCK_MONOTONIC) < deadline)
		sleep_ms(2);
	check_int("handler ran", 1, handled);
	check_int("call is over", !restarts, done);
	if (restarts)
		REQUIRE(write(pipe_fds[1], "x", 1) == 1);
	else if (!done)
		return selfcheck_end();
	pthread_join(thread, 0);
	check_int("result", restarts ? 1 : -1, rc);
	if (!restarts)
		check_int("errno", EINTR, error);
	if (!strcmp(kind, "nanosleep") && (rem.tv_sec < 50 || rem.tv_sec > 60))
		fail("remaining: expected just under 60 s got %ld s", (long)rem.tv_sec);
	return selfcheck_end();
}

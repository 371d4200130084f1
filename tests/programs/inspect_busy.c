/*
 * Busy in every way that a look from outside could disturb: calls that end in EINTR when a thread
 * is stopped, clocks that would jump, a state that would show a stop. Each thread checks itself
 * until DIR/go appears; the numbers of rounds are the proof that it was busy.
 */
#include "selfcheck.h"

#include <linux/futex.h>
#include <poll.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/wait.h>

#define WAIT_MS 2
#define FEWEST_ROUNDS 20

static volatile int stopping;
static int epoll_fd, semaphores, ping[2], pong[2];
static uint32_t futex_word;

typedef long (*round_fn)(void);

static long round_nanosleep(void)
{
	struct timespec ts = { 0, WAIT_MS * 1000000L };

	return nanosleep(&ts, NULL);
}

static long round_poll(void)
{
	return poll(NULL, 0, WAIT_MS);
}

static long round_epoll(void)
{
	struct epoll_event event;

	return epoll_wait(epoll_fd, &event, 1, WAIT_MS);
}

static long round_futex(void)
{
	struct timespec ts = { 0, WAIT_MS * 1000000L };
	long result = syscall(SYS_futex, &futex_word, FUTEX_WAIT_PRIVATE, 0, &ts, NULL, 0);

	return result < 0 && errno == ETIMEDOUT ? 0 : result;
}

static long round_semop(void)
{
	struct timespec ts = { 0, WAIT_MS * 1000000L };
	struct sembuf operation = { 0, -1, 0 };
	long result = semtimedop(semaphores, &operation, 1, &ts);

	return result < 0 && errno == EAGAIN ? 0 : result;
}

static long round_sigwait(void)
{
	struct timespec ts = { 0, WAIT_MS * 1000000L };
	sigset_t set;
	long result;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	result = sigtimedwait(&set, NULL, &ts);
	return result < 0 && errno == EAGAIN ? 0 : result;
}

static long round_pipe(void)
{
	char byte = 1;

	return write(ping[1], &byte, 1) == 1 && read(pong[0], &byte, 1) == 1 ? 0 : -1;
}

static long round_memory(void)
{
	char *area = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		return -1;
	memset(area, 1, 65536);
	return munmap(area, 65536);
}

static void *nothing(void *unused)
{
	return unused;
}

static long round_thread(void)
{
	pthread_t thread;

	errno = pthread_create(&thread, NULL, nothing, NULL);
	return errno ? -1 : -pthread_join(thread, NULL);
}

static long round_fork(void)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status ? 0 : -1;
}

static const struct {
	const char *name;
	round_fn run;
} rounds[] = {
	{ "nanosleep", round_nanosleep }, { "poll", round_poll },	{ "epoll", round_epoll },
	{ "futex", round_futex },	  { "semop", round_semop },	{ "sigwait", round_sigwait },
	{ "pipe", round_pipe },		  { "memory", round_memory },	{ "thread", round_thread },
	{ "fork", round_fork },
};
#define ROUNDS (int)(sizeof(rounds) / sizeof(rounds[0]))

static void *busy(void *argument)
{
	long which = (long)argument, count = 0;

	while (!stopping) {
		errno = 0;
		if (rounds[which].run() < 0) {
			fail("%s: round %ld: %s", rounds[which].name, count, strerror(errno));
			break;
		}
		count++;
		sched_yield();
	}
	if (count < FEWEST_ROUNDS)
		fail("%s: only %ld rounds", rounds[which].name, count);
	return NULL;
}

static void *echo(void *unused)
{
	char byte;

	while (read(ping[0], &byte, 1) == 1)
		if (write(pong[1], &byte, 1) != 1)
			break;
	return unused;
}

/* What /proc says of this process: nobody traces it, and it is not stopped. */
static void check_status(void)
{
	char text[4096];
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t size = read(fd, text, sizeof(text) - 1);

	close(fd);
	text[size > 0 ? size : 0] = 0;
	if (!strstr(text, "\nTracerPid:\t0\n"))
		fail("traced: %.300s", text);
}

int main(int argc, char **argv)
{
	pthread_t threads[ROUNDS], echoing;
	long i;

	selfcheck_begin(argc, argv);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	semaphores = semget(IPC_PRIVATE, 1, 0600);
	REQUIRE(epoll_fd >= 0 && semaphores >= 0 && !pipe(ping) && !pipe(pong));
	REQUIRE(!pthread_create(&echoing, NULL, echo, NULL));
	for (i = 0; i < ROUNDS; i++)
		REQUIRE(!pthread_create(&threads[i], NULL, busy, (void *)i));
	selfcheck_ready();
	while (!selfcheck_told_to_go()) {
		struct timespec ts = { 0, WAIT_MS * 1000000L };

		check_status();
		if (nanosleep(&ts, NULL))
			fail("main: nanosleep: %s", strerror(errno));
	}
	stopping = 1;
	for (i = 0; i < ROUNDS; i++)
		pthread_join(threads[i], NULL);
	semctl(semaphores, 0, IPC_RMID);
	return selfcheck_end();
}

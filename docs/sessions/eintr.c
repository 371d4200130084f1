/*
 * Reads lines from standard input, and is told "Interrupted system call" now and then, although
 * nobody sends it a signal: a library that it uses has armed a timer, and forgot SA_RESTART.
 * docs/debugging.md finds the timer by `ckpt-bpf trace`.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t beats;

static void beat(int signo)
{
	(void)signo;
	beats++;
}

/* What the library does. */
static void start_heartbeat(void)
{
	struct sigaction action = { .sa_handler = beat };
	struct itimerval every = { .it_interval.tv_usec = 400000, .it_value.tv_usec = 400000 };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

int main(void)
{
	char buffer[512];
	ssize_t n;

	start_heartbeat();
	while ((n = read(STDIN_FILENO, buffer, sizeof(buffer))) != 0) {
		if (n < 0)
			fprintf(stderr, "read: %s\n", strerror(errno));
		else
			printf("%zd bytes\n", n);
	}
	return 0;
}

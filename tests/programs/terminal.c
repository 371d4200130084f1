/* Run on a terminal by the harness: standard streams, /dev/tty, Ctrl-C and Ctrl-Z reach it. */
#include "selfcheck.h"
#include <termios.h>

static volatile int interrupts, stops;

static void on_signal(int sig)
{
	if (sig == SIGINT)
		interrupts++;
	else
		stops++;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	long long deadline;
	char line[64] = "";
	struct stat a, b;
	int tty, high;

	selfcheck_begin(argc, argv);
	sigaction(SIGINT, &action, 0);
	sigaction(SIGTSTP, &action, 0);
	tty = open("/dev/tty", O_RDWR);
	REQUIRE(tty >= 0);
	high = fcntl(0, F_DUPFD_CLOEXEC, 200);
	REQUIRE(high >= 200 && isatty(0) && isatty(high));
	selfcheck_park();
	deadline = clock_ns(CLOCK_MONOTONIC) + 4000000000LL;
	while ((!interrupts || !stops) && clock_ns(CLOCK_MONOTONIC) < deadline)
		sleep_ms(5);
	check_int("Ctrl-C", 1, interrupts);
	check_int("Ctrl-Z", 1, stops);
	check_int("standard input is a terminal", 1, isatty(0));
	check_int("fd of /dev/tty is a terminal", 1, isatty(tty));
	check_int("high fd is a terminal", 1, isatty(high));
	check_int("session of the terminal", getsid(0), tcgetsid(tty));
	check_int("foreground group", getpgrp(), tcgetpgrp(tty));
	fstat(0, &a);
	fstat(high, &b);
	check_int("high fd is the same terminal as fd 0", (long)a.st_rdev, (long)b.st_rdev);
	selfcheck_publish("signals", "got\n");
	check_int("line read from the terminal", 6, read(0, line, sizeof(line)));
	check_mem("line", "hello\n", line, 6);
	check_int("written to /dev/tty", 6, write(tty, "world\n", 6));
	return selfcheck_end();
}

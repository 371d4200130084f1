/* The three interval timers: remaining time, interval, and that they go on. */
#include "selfcheck.h"
#include <sys/time.h>

static volatile int alarms;

static void on_alarm(int sig)
{
	(void)sig;
	alarms++;
}

int main(int argc, char **argv)
{
	struct itimerval real = { { 0, 200000 }, { 0, 200000 } };
	struct itimerval virt = { { 30, 0 }, { 20, 0 } }, prof = { { 0, 0 }, { 40, 0 } }, got;
	struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
	long long start;
	int due, before;

	selfcheck_begin(argc, argv);
	sigaction(SIGALRM, &action, 0);
	REQUIRE(!setitimer(ITIMER_VIRTUAL, &virt, 0) && !setitimer(ITIMER_PROF, &prof, 0));
	REQUIRE(!setitimer(ITIMER_REAL, &real, 0));
	selfcheck_park();
	/* While the process was parked or being checked it missed some; now they come in time. */
	start = clock_ns(CLOCK_MONOTONIC);
	before = alarms;
	while (clock_ns(CLOCK_MONOTONIC) - start < 1100000000LL)
		sleep_ms(3);
	due = (int)((clock_ns(CLOCK_MONOTONIC) - start) / 200000000LL);
	if (alarms - before < due - 2 || alarms - before > due + 1)
		fail("alarms: expected %d got %d", due, alarms - before);
	getitimer(ITIMER_REAL, &got);
	check_int("real interval", 200000, got.it_interval.tv_usec);
	getitimer(ITIMER_VIRTUAL, &got);
	check_int("virtual interval", 30, got.it_interval.tv_sec);
	if (got.it_value.tv_sec < 18 || got.it_value.tv_sec > 20)
		fail("virtual value: expected 19..20 s got %ld s", (long)got.it_value.tv_sec);
	getitimer(ITIMER_PROF, &got);
	check_int("prof interval", 0, got.it_interval.tv_sec);
	if (got.it_value.tv_sec < 38 || got.it_value.tv_sec > 40)
		fail("prof value: expected 39..40 s got %ld s", (long)got.it_value.tv_sec);
	return selfcheck_end();
}

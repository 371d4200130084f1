/* timerfd: relative, absolute, periodic with unread ticks, cancel-on-set, unarmed, each clock. */
#include "selfcheck_fds.h"
#include <sys/timerfd.h>

static int made(clockid_t clock, int flags, double first, double interval)
{
	struct itimerspec spec;
	int fd = timerfd_create(clock, TFD_NONBLOCK);

	spec.it_value.tv_sec = (time_t)first;
	spec.it_value.tv_nsec = (long)((first - (double)spec.it_value.tv_sec) * 1e9);
	spec.it_interval.tv_sec = (time_t)interval;
	spec.it_interval.tv_nsec = (long)((interval - (double)spec.it_interval.tv_sec) * 1e9);
	REQUIRE(fd >= 0 && !timerfd_settime(fd, flags, &spec, 0));
	return fd;
}

static double started, started_realtime;

/* `total` seconds when it was armed, less what that clock has counted since. */
static void left(const char *what, int fd, clockid_t clock, double total, double interval)
{
	double now = (double)clock_ns(clock) / 1e9;
	double expected = total - now + (clock == CLOCK_REALTIME ? started_realtime : started);
	struct itimerspec spec = { 0 };
	double value;

	check_ok(what, timerfd_gettime(fd, &spec));
	value = (double)spec.it_value.tv_sec + (double)spec.it_value.tv_nsec / 1e9;
	if (total > 0 ? value < expected - 0.05 || value > expected + 0.05 : value > interval)
		fail("%s: expected %.3f s left got %.3f s", what, expected, value);
	check_int(what, (long)(interval * 1e6),
		  spec.it_interval.tv_sec * 1000000L + (spec.it_interval.tv_nsec + 500) / 1000);
}

int main(int argc, char **argv)
{
	int relative, absolute, boot, real, unarmed, expired, periodic;
	uint64_t ticks = 0;
	char text[64];

	selfcheck_begin(argc, argv);
	started = (double)clock_ns(CLOCK_MONOTONIC) / 1e9;
	started_realtime = (double)clock_ns(CLOCK_REALTIME) / 1e9;
	relative = made(CLOCK_MONOTONIC, 0, 100, 0);
	absolute = made(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, started + 200, 0);
	boot = made(CLOCK_BOOTTIME, 0, 300, 2.5);
	real = made(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, started_realtime + 400, 0);
	unarmed = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	expired = made(CLOCK_MONOTONIC, 0, 0.001, 0);
	periodic = made(CLOCK_MONOTONIC, 0, 0.01, 0.01);
	sleep_ms(100);
	selfcheck_park();
	left("relative", relative, CLOCK_MONOTONIC, 100, 0);
	left("absolute", absolute, CLOCK_MONOTONIC, 200, 0);
	left("boottime", boot, CLOCK_MONOTONIC, 300, 2.5);
	left("realtime", real, CLOCK_REALTIME, 400, 0);
	left("unarmed", unarmed, CLOCK_MONOTONIC, 0, 0);
	check_errno("relative has not expired", EAGAIN, read(relative, &ticks, 8));
	check_int("read of the expired one", 8, read(expired, &ticks, 8));
	check_int("its ticks", 1, (long)ticks);
	check_errno("the expired one once only", EAGAIN, read(expired, &ticks, 8));
	check_int("read of the periodic one", 8, read(periodic, &ticks, 8));
	if (ticks < 10 || ticks > 20000)
		fail("unread ticks: expected 10 or more got %ld", (long)ticks);
	left("periodic", periodic, CLOCK_MONOTONIC, 0, 0.01);
	check_int("FD_CLOEXEC", FD_CLOEXEC, fcntl(unarmed, F_GETFD));
	proc_fdinfo(real, "settime flags", text, sizeof(text));
	check_int("flags of the realtime one", TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, strtol(text, 0, 8));
	return selfcheck_end();
}

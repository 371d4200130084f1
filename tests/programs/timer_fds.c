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

static void left(const char *what, int fd, double low, double high, double interval)
{
	struct itimerspec spec = { 0 };
	double value;

	check_ok(what, timerfd_gettime(fd, &spec));
	value = (double)spec.it_value.tv_sec + (double)spec.it_value.tv_nsec / 1e9;
	if (value < low || value > high)
		fail("%s: expected %.3f..%.3f s left got %.3f s", what, low, high, value);
	check_int(what, (long)(interval * 1e6),
		  spec.it_interval.tv_sec * 1000000L + (spec.it_interval.tv_nsec + 500) / 1000);
}

int main(int argc, char **argv)
{
	int relative, absolute, boot, real, unarmed, expired, periodic;
	double now = (double)clock_ns(CLOCK_MONOTONIC) / 1e9;
	double real_now = (double)clock_ns(CLOCK_REALTIME) / 1e9;
	uint64_t ticks = 0;
	char text[64];

	selfcheck_begin(argc, argv);
	relative = made(CLOCK_MONOTONIC, 0, 100, 0);
	absolute = made(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, now + 200, 0);
	boot = made(CLOCK_BOOTTIME, 0, 300, 2.5);
	real = made(CLOCK_REALTIME, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, real_now + 400, 0);
	unarmed = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	expired = made(CLOCK_MONOTONIC, 0, 0.001, 0);
	periodic = made(CLOCK_MONOTONIC, 0, 0.01, 0.01);
	sleep_ms(100);
	selfcheck_park();
	left("relative", relative, 90, 100, 0);
	left("absolute", absolute, 190, 200, 0);
	left("boottime", boot, 290, 300, 2.5);
	left("realtime", real, 390, 400, 0);
	left("unarmed", unarmed, 0, 0, 0);
	check_errno("relative has not expired", EAGAIN, read(relative, &ticks, 8));
	check_int("read of the expired one", 8, read(expired, &ticks, 8));
	check_int("its ticks", 1, (long)ticks);
	check_errno("the expired one once only", EAGAIN, read(expired, &ticks, 8));
	check_int("read of the periodic one", 8, read(periodic, &ticks, 8));
	if (ticks < 10 || ticks > 300)
		fail("unread ticks: expected 10..300 got %ld", (long)ticks);
	left("periodic", periodic, 0, 0.0101, 0.01);
	check_int("FD_CLOEXEC", FD_CLOEXEC, fcntl(unarmed, F_GETFD));
	proc_fdinfo(real, "settime flags", text, sizeof(text));
	check_int("flags of the realtime one", TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, strtol(text, 0, 8));
	return selfcheck_end();
}

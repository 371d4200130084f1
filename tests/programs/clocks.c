/* CLOCK_MONOTONIC and BOOTTIME go on without the pause; CLOCK_REALTIME shows it. */
#include "selfcheck.h"

static volatile int stop;
static long long gap_monotonic, gap_boottime, gap_raw, gap_realtime, backward;

static long long advance(clockid_t clock, long long *last, long long *gap)
{
	long long now = clock_ns(clock), step = now - *last;

	if (*last && step > *gap)
		*gap = step;
	if (*last && step < 0)
		backward = step;
	*last = now;
	return step;
}

static void *ticker(void *arg)
{
	long long monotonic = 0, boottime = 0, raw = 0, realtime = 0;
	struct timespec ms = { 0, 1000000 };

	while (!stop) {
		advance(CLOCK_MONOTONIC, &monotonic, &gap_monotonic);
		advance(CLOCK_BOOTTIME, &boottime, &gap_boottime);
		advance(CLOCK_MONOTONIC_RAW, &raw, &gap_raw);
		advance(CLOCK_REALTIME, &realtime, &gap_realtime);
		syscall(SYS_nanosleep, &ms, 0);
	}
	return arg;
}

int main(int argc, char **argv)
{
	const long long pause_ns = 300000000;
	long long freeze_ns;
	pthread_t thread;

	selfcheck_begin(argc, argv);
	REQUIRE(!pthread_create(&thread, 0, ticker, 0));
	selfcheck_park();
	/* comparing with the image comes after the clocks were set, and takes its time */
	freeze_ns = strcmp(selfcheck_mode, "verified") ? 250000000 : 5000000000;
	stop = 1;
	pthread_join(thread, 0);
	check_int("a clock went backward by", 0, backward);
	if (gap_monotonic > freeze_ns)
		fail("CLOCK_MONOTONIC: expected no jump got %lld ms", gap_monotonic / 1000000);
	if (gap_boottime > freeze_ns)
		fail("CLOCK_BOOTTIME: expected no jump got %lld ms", gap_boottime / 1000000);
	if (gap_raw > freeze_ns)
		fail("CLOCK_MONOTONIC_RAW: expected no jump got %lld ms", gap_raw / 1000000);
	if (selfcheck_restored() && gap_realtime < pause_ns)
		fail("CLOCK_REALTIME: expected the pause got a jump of %lld ms", gap_realtime / 1000000);
	return selfcheck_end();
}

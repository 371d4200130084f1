/* Sleeps: relative and absolute, each clock, 32-bit entry, broken off by a signal. */
#include "blocked.h"

static struct timespec rem = { 77, 88 }, absolute;
static volatile int burning = 1;
static volatile long long burned_ns;

static long nanosleep_raw(void)
{
	return syscall(SYS_nanosleep, &limit_ts, &rem);
}

/* The kernel writes `rem` whenever a stop breaks into the sleep; undisturbed it does not. */
static void keep_both(void)
{
	keep(&limit_ts, sizeof(limit_ts));
	keep(&rem, sizeof(rem));
}

static long nanosleep_libc(void)
{
	return nanosleep(&limit_ts, &rem);
}

static long on_clock(clockid_t clock, int flags, const struct timespec *ts)
{
	return syscall(SYS_clock_nanosleep, clock, flags, ts, flags ? 0 : &rem);
}

static long monotonic(void)
{
	return on_clock(CLOCK_MONOTONIC, 0, &limit_ts);
}

static long boottime(void)
{
	return on_clock(CLOCK_BOOTTIME, 0, &limit_ts);
}

static long realtime(void)
{
	return on_clock(CLOCK_REALTIME, 0, &limit_ts);
}

static long monotonic_until(void)
{
	absolute = from_now(CLOCK_MONOTONIC, limit_ns);
	keep(&absolute, sizeof(absolute));
	return on_clock(CLOCK_MONOTONIC, TIMER_ABSTIME, &absolute);
}

static long boottime_until(void)
{
	absolute = from_now(CLOCK_BOOTTIME, limit_ns);
	return on_clock(CLOCK_BOOTTIME, TIMER_ABSTIME, &absolute);
}

static long realtime_until(void)
{
	absolute = from_now(CLOCK_REALTIME, real_limit_ns);
	return on_clock(CLOCK_REALTIME, TIMER_ABSTIME, &absolute);
}

/* Adds up the CPU time of the process; after a restore the clock begins again at 0. */
static void *burn(void *arg)
{
	long long last = clock_ns(CLOCK_PROCESS_CPUTIME_ID);

	while (burning) {
		long long now = clock_ns(CLOCK_PROCESS_CPUTIME_ID);

		burned_ns += now < last ? now : now - last;
		last = now;
	}
	return arg;
}

static struct timespec cpu_ts;

static void setup_burner(void)
{
	pthread_t thread;

	REQUIRE(!pthread_create(&thread, 0, burn, 0));
	pthread_detach(thread);
	cpu_ts = limit_ts;
	cpu_ts.tv_sec += 2; /* the burner slows the snapshot down */
	keep(&cpu_ts, sizeof(cpu_ts));
}

static long long burned_before;

static long cpu_clock(void)
{
	long rc;

	burned_before = burned_ns;
	rc = on_clock(CLOCK_PROCESS_CPUTIME_ID, 0, &cpu_ts);
	burned_before = burned_ns - burned_before;
	burning = 0;
	return rc;
}

static long cpu_clock_until(void)
{
	struct timespec ts = from_now(CLOCK_PROCESS_CPUTIME_ID, limit_ns + 2000000000LL);
	long rc;

	burned_before = burned_ns;
	rc = on_clock(CLOCK_PROCESS_CPUTIME_ID, TIMER_ABSTIME, &ts);
	burned_before = burned_ns - burned_before;
	burning = 0;
	return rc;
}

static void check_burned(void)
{
	long long late = burned_before - limit_ns - 2000000000LL;

	if (late < -SLACK_NS || late > SLACK_NS)
		fail("CPU time: expected %lld ms got %.1f ms", limit_ns / 1000000 + 2000, (double)burned_before / 1e6);
}

static int *low; /* a timespec of two 32-bit words, and room for the rest */

static void setup_low(void)
{
	low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	REQUIRE(low != MAP_FAILED);
	low[0] = (int)limit_ts.tv_sec;
	low[1] = (int)limit_ts.tv_nsec;
	low[2] = 77;
	keep(low, 12);
}

static long nanosleep_int80(void)
{
	long rc;

	__asm__ volatile("int $0x80" : "=a"(rc) : "a"(I386_NANOSLEEP), "b"(low), "c"(low + 2)
			 : "memory", "r8", "r9", "r10", "r11");
	return rc;
}

/* The registers that the call does not return in are the program's own. */
static long nanosleep_registers(void)
{
	register long r10 __asm__("r10") = 0x1010101010101010;
	register long r8 __asm__("r8") = 0x0808080808080808;
	long rc, rdx = 0x0d0d0d0d0d0d0d0d;
	const struct timespec *rdi = &limit_ts;
	struct timespec *rsi = &rem;

	__asm__ volatile("syscall" : "=a"(rc), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r10), "+r"(r8)
			 : "0"(SYS_nanosleep) : "rcx", "r11", "memory");
	if (rdi != &limit_ts || rsi != &rem || rdx != 0x0d0d0d0d0d0d0d0d || r10 != 0x1010101010101010 ||
	    r8 != 0x0808080808080808)
		fail("registers: expected them as they were before the call got others");
	return rc;
}

static const struct timespec long_ts = { 60, 0 };

static long sleep_until_signal(void)
{
	return syscall(SYS_nanosleep, &long_ts, &rem);
}

static void check_remaining(void)
{
	long long left = rem.tv_sec * 1000000000LL + rem.tv_nsec;
	long long expected = 60000000000LL - (blocked_end - blocked_start);

	if (left < expected - SLACK_NS || left > expected + SLACK_NS)
		fail("remaining time: expected %.3f s got %.3f s", (double)expected / 1e9, (double)left / 1e9);
}

static const struct blocked_case cases[] = {
	{ "nanosleep", SYS_nanosleep, LASTS, 0, 0, nanosleep_raw, keep_both, 0, 0 },
	{ "nanosleep_libc", SYS_clock_nanosleep, LASTS, 0, 0, nanosleep_libc, keep_both, 0, 0 },
	{ "nanosleep_int80", I386_NANOSLEEP, LASTS, 0, 0, nanosleep_int80, setup_low, 0, 0 },
	{ "nanosleep_registers", SYS_nanosleep, LASTS, 0, 0, nanosleep_registers, keep_both, 0, 0 },
	{ "nanosleep_signal", SYS_nanosleep, FOREVER, -1, EINTR, sleep_until_signal, setup_handler,
	  wake_by_signal, check_remaining },
	{ "monotonic", SYS_clock_nanosleep, LASTS, 0, 0, monotonic, keep_both, 0, 0 },
	{ "boottime", SYS_clock_nanosleep, LASTS, 0, 0, boottime, keep_both, 0, 0 },
	{ "realtime", SYS_clock_nanosleep, LASTS, 0, 0, realtime, keep_both, 0, 0 },
	{ "monotonic_until", SYS_clock_nanosleep, LASTS, 0, 0, monotonic_until, 0, 0, 0 },
	{ "boottime_until", SYS_clock_nanosleep, LASTS, 0, 0, boottime_until, 0, 0, 0 },
	{ "realtime_until", SYS_clock_nanosleep, UNTIL_REALTIME, 0, 0, realtime_until, 0, 0, 0 },
	{ "cpu_clock", SYS_clock_nanosleep, CPU_TIME, 0, 0, cpu_clock, setup_burner, 0, check_burned },
	{ "cpu_clock_until", SYS_clock_nanosleep, CPU_TIME, 0, 0, cpu_clock_until, setup_burner, 0,
	  check_burned },
};

BLOCKED_PROGRAM(cases)

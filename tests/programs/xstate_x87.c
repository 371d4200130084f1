/* The x87 stack, its control word, and MXCSR of a spinning and of a sleeping thread. */
#include "selfcheck.h"

volatile int x87_spinning, x87_stop;

struct x87_state {
	long double st[3];
	uint16_t control, status;
	uint32_t mxcsr;
};

static void load(long double base, uint16_t control, uint32_t mxcsr)
{
	long double a = base, b = base + 1, c = base + 2;

	__asm__ volatile("fninit\n\tfldcw %0\n\tldmxcsr %1\n\tfldt %2\n\tfldt %3\n\tfldt %4"
			 ::"m"(control), "m"(mxcsr), "m"(a), "m"(b), "m"(c));
}

static void store(struct x87_state *s)
{
	__asm__ volatile("fnstsw %2\n\tfstpt %0\n\tfstpt %1" : "=m"(s->st[0]), "=m"(s->st[1]), "=m"(s->status));
	__asm__ volatile("fstpt %0\n\tfnstcw %1\n\tstmxcsr %2"
			 : "=m"(s->st[2]), "=m"(s->control), "=m"(s->mxcsr));
	__asm__ volatile("fninit");
}

static void *spin(void *arg)
{
	load(1.25L, 0x0e7f, 0x7f80); /* round to zero, double precision; SSE round to zero */
	x87_spinning = 1;
	while (!x87_stop)
		__asm__ volatile("pause");
	store(arg);
	return 0;
}

static void verify(const char *who, const struct x87_state *s, long double base, uint16_t control,
		   uint32_t mxcsr)
{
	char what[64];

	for (int i = 0; i < 3; i++) {
		snprintf(what, sizeof(what), "%s st(%d) x 100", who, i);
		check_int(what, (long long)((base + 2 - i) * 100), (long long)(s->st[i] * 100));
	}
	snprintf(what, sizeof(what), "%s control word", who);
	check_int(what, control, s->control);
	snprintf(what, sizeof(what), "%s top of stack", who);
	check_int(what, 5, s->status >> 11 & 7);
	snprintf(what, sizeof(what), "%s mxcsr", who);
	check_int(what, mxcsr, s->mxcsr);
}

int main(int argc, char **argv)
{
	struct timespec tick = { 0, 5000000 };
	struct x87_state spun, slept;
	pthread_t thread;

	selfcheck_begin(argc, argv);
	REQUIRE(!pthread_create(&thread, 0, spin, &spun));
	while (!x87_spinning)
		;
	selfcheck_ready();
	load(7.5L, 0x027f, 0x3f80);
	/* access by raw calls: libc must not touch the x87 stack here, and does not */
	for (;;) {
		char path[600];

		selfcheck_path(path, sizeof(path), "go");
		if (!access(path, F_OK))
			break;
		syscall(SYS_nanosleep, &tick, 0);
	}
	store(&slept);
	x87_stop = 1;
	pthread_join(thread, 0);
	verify("sleeping", &slept, 7.5L, 0x027f, 0x3f80);
	verify("spinning", &spun, 1.25L, 0x0e7f, 0x7f80);
	return selfcheck_end();
}

/* The dispositions of all 64 signals as the kernel has them: handler, flags, restorer, mask. */
#include "selfcheck.h"

struct kernel_sigaction {
	unsigned long handler, flags, restorer, mask;
};

static void handler(int sig)
{
	(void)sig;
}

static struct kernel_sigaction made_for(int sig)
{
	static const unsigned long flags[] = { SA_SIGINFO, SA_RESTART, SA_ONSTACK, SA_NODEFER,
					       SA_NOCLDSTOP, 0x00000800 /* SA_EXPOSE_TAGBITS */ };
	struct kernel_sigaction action = { 0 };

	switch (sig % 4) {
	case 0:
		action.handler = (unsigned long)SIG_IGN;
		break;
	case 1:
		action.handler = (unsigned long)handler + (unsigned long)sig * 0;
		action.restorer = 0x7000000UL + (unsigned long)sig;
		action.flags = 0x04000000 /* SA_RESTORER */ | flags[sig % 6] | flags[(sig / 3) % 6];
		action.mask = 0x5a5a000000000000UL ^ 1UL << (sig % 60);
		break;
	case 2:
		action.handler = (unsigned long)SIG_DFL;
		action.flags = SA_RESTART;
		action.mask = 2;
		break;
	default:
		action.handler = 0x400000UL + (unsigned long)sig * 16;
		action.flags = SA_SIGINFO;
	}
	action.mask &= ~(1UL << (SIGKILL - 1) | 1UL << (SIGSTOP - 1));
	return action;
}

int main(int argc, char **argv)
{
	selfcheck_begin(argc, argv);
	for (int sig = 1; sig <= 64; sig++) {
		struct kernel_sigaction action = made_for(sig);

		if (sig != SIGKILL && sig != SIGSTOP)
			REQUIRE(!syscall(SYS_rt_sigaction, sig, &action, 0, 8L));
	}
	selfcheck_park();
	for (int sig = 1; sig <= 64; sig++) {
		struct kernel_sigaction want = made_for(sig), got = { 0 };
		char what[64];

		if (sig == SIGKILL || sig == SIGSTOP)
			memset(&want, 0, sizeof(want));
		syscall(SYS_rt_sigaction, sig, 0, &got, 8L);
		snprintf(what, sizeof(what), "handler of %d", sig);
		check_int(what, (long)want.handler, (long)got.handler);
		snprintf(what, sizeof(what), "flags of %d", sig);
		check_int(what, (long)want.flags, (long)got.flags);
		snprintf(what, sizeof(what), "restorer of %d", sig);
		check_int(what, (long)want.restorer, (long)got.restorer);
		snprintf(what, sizeof(what), "mask of %d", sig);
		check_int(what, (long)want.mask, (long)got.mask);
	}
	return selfcheck_end();
}

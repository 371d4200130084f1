/* AMX: permission to use tiles, and the contents of one. */
#include "selfcheck.h"
#include <cpuid.h>

#define ARCH_GET_XCOMP_PERM 0x1022
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

volatile int amx_spinning, amx_stop;
static char want[16][64], got[16][64];
static char config[64] __attribute__((aligned(64)));

__attribute__((target("amx-tile"))) static void *spin(void *arg)
{
	(void)arg;
	__asm__ volatile("ldtilecfg (%0)\n\ttileloadd (%1,%3,1), %%tmm0\n\tmovl $1, (%4)\n\t"
			 "1: pause\n\tcmpl $0, (%5)\n\tje 1b\n\t"
			 "tilestored %%tmm0, (%2,%3,1)\n\ttilerelease"
			 ::"r"(config), "r"(want), "r"(got), "r"(64L), "r"(&amx_spinning), "r"(&amx_stop)
			 : "memory");
	return 0;
}

int main(int argc, char **argv)
{
	unsigned a, b, c, d = 0;
	pthread_t thread;
	uint64_t permitted = 0;

	selfcheck_begin(argc, argv);
	__get_cpuid_count(7, 0, &a, &b, &c, &d);
	if (!(d & 1u << 24))
		skip_cpu("amx-tile");
	REQUIRE(!syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA));
	config[0] = 1;
	config[16] = 64;
	config[48] = 16;
	for (int i = 0; i < 1024; i++)
		want[i / 64][i % 64] = (char)(i * 7);
	REQUIRE(!pthread_create(&thread, 0, spin, 0));
	while (!amx_spinning)
		;
	selfcheck_park();
	amx_stop = 1;
	pthread_join(thread, 0);
	check_mem("tmm0", want, got, sizeof(want));
	check_int("ARCH_GET_XCOMP_PERM", 0, syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &permitted));
	check_int("tile permission", 1, permitted >> XFEATURE_XTILEDATA & 1);
	return selfcheck_end();
}

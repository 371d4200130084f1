/* Sixteen XMM and YMM registers of a thread that spins, and a zmm-less upper half kept apart. */
#include "selfcheck.h"

volatile int avx_spinning, avx_stop;
static uint32_t want[16][8], got[16][8];

__attribute__((target("avx2"))) static void *spin(void *arg)
{
	(void)arg;
#define LOAD(n) "vmovdqu " #n "*32(%0), %%ymm" #n "\n\t"
#define SAVE(n) "vmovdqu %%ymm" #n ", " #n "*32(%1)\n\t"
#define ALL(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)
	__asm__ volatile(ALL(LOAD) "movl $1, (%2)\n\t"
			 "1: pause\n\tcmpl $0, (%3)\n\tje 1b\n\t" ALL(SAVE) "vzeroupper"
			 ::"r"(want), "r"(got), "r"(&avx_spinning), "r"(&avx_stop)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
			   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	selfcheck_begin(argc, argv);
	if (!__builtin_cpu_supports("avx2"))
		skip_cpu("avx2");
	for (int r = 0; r < 16; r++)
		for (int i = 0; i < 8; i++)
			want[r][i] = 0xa0000000u + (uint32_t)r * 256 + (uint32_t)i;
	REQUIRE(!pthread_create(&thread, 0, spin, 0));
	while (!avx_spinning)
		;
	selfcheck_park();
	avx_stop = 1;
	pthread_join(thread, 0);
	for (int r = 0; r < 16; r++) {
		char what[32];

		snprintf(what, sizeof(what), "ymm%d", r);
		check_mem(what, want[r], got[r], 32);
	}
	return selfcheck_end();
}

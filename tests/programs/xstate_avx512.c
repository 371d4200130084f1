/* Thirty-two ZMM and eight mask registers of a spinning thread. */
#include "selfcheck.h"

volatile int avx512_spinning, avx512_stop;
static uint32_t want[32][16], got[32][16];
static uint64_t want_k[8], got_k[8];

__attribute__((target("avx512f,avx512bw"))) static void *spin(void *arg)
{
	(void)arg;
#define LOAD(n) "vmovdqu32 " #n "*64(%0), %%zmm" #n "\n\t"
#define SAVE(n) "vmovdqu32 %%zmm" #n ", " #n "*64(%1)\n\t"
#define LOADK(n) "kmovq " #n "*8(%4), %%k" #n "\n\t"
#define SAVEK(n) "kmovq %%k" #n ", " #n "*8(%5)\n\t"
#define EIGHT(op) op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#define ALL(op)                                                                                    \
	EIGHT(op) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15) op(16) op(17) op(18)       \
	op(19) op(20) op(21) op(22) op(23) op(24) op(25) op(26) op(27) op(28) op(29) op(30) op(31)
	__asm__ volatile(ALL(LOAD) EIGHT(LOADK) "movl $1, (%2)\n\t"
			 "1: pause\n\tcmpl $0, (%3)\n\tje 1b\n\t" ALL(SAVE) EIGHT(SAVEK) "vzeroupper"
			 ::"r"(want), "r"(got), "r"(&avx512_spinning), "r"(&avx512_stop),
			   "r"(want_k), "r"(got_k)
			 : "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
			   "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
			   "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23",
			   "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31");
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	selfcheck_begin(argc, argv);
	if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw"))
		skip_cpu("avx512bw");
	for (int r = 0; r < 32; r++)
		for (int i = 0; i < 16; i++)
			want[r][i] = 0xb0000000u + (uint32_t)r * 256 + (uint32_t)i;
	for (int k = 0; k < 8; k++)
		want_k[k] = 0x0123456789abcdefULL * (unsigned)(k + 1);
	REQUIRE(!pthread_create(&thread, 0, spin, 0));
	while (!avx512_spinning)
		;
	selfcheck_park();
	avx512_stop = 1;
	pthread_join(thread, 0);
	check_mem("zmm0-31", want, got, sizeof(want));
	check_mem("k0-7", want_k, got_k, sizeof(want_k));
	return selfcheck_end();
}

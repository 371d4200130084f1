/*
 * Counts in vector registers and nowhere else: for as long as the spinning loop runs, memory holds
 * no copy. Another thread prints ticks and ends the loop once a file named "finish" appears. Then
 * every register has to hold its start value plus the number of rounds.
 * Built with -mavx512f for 32 registers of 512 bits, with -mavx2 for 16 of 256.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __AVX512F__
#define VECTOR "zmm"
#define LANES 8
#define REGISTERS 32
#define MOVE "vmovdqu64 "
#define ALL(F) LOW(F) F(16) F(17) F(18) F(19) F(20) F(21) F(22) F(23) \
	F(24) F(25) F(26) F(27) F(28) F(29) F(30) F(31)
#else
#define VECTOR "ymm"
#define LANES 4
#define REGISTERS 16
#define MOVE "vmovdqu "
#define ALL(F) LOW(F)
#endif
/* Register 0 is what the others are counted up by. */
#define LOW(F) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11) F(12) F(13) F(14) F(15)

#define OFFSET(n) #n "*8*%c[lanes]"
#define LOAD(n) MOVE OFFSET(n) "(%[start]), %%" VECTOR #n "\n\t"
#define STORE(n) MOVE "%%" VECTOR #n ", " OFFSET(n) "(%[end])\n\t"
#define COUNT(n) "vpaddq %%" VECTOR "0, %%" VECTOR #n ", %%" VECTOR #n "\n\t"

static _Atomic int finish;
static uint64_t start[REGISTERS][LANES], end[REGISTERS][LANES];

static uint64_t spin(void)
{
	uint64_t rounds = 0;

	__asm__ volatile(LOAD(0) ALL(LOAD)
#ifdef __AVX512F__
			 "movl $0xa5a5, %%eax\n\tkmovw %%eax, %%k1\n\tknotw %%k1, %%k2\n\t"
#endif
			 "1:\n\t" ALL(COUNT)
			 "incq %[rounds]\n\t"
			 "cmpl $0, %[finish]\n\t"
			 "je 1b\n\t" STORE(0) ALL(STORE)
#ifdef __AVX512F__
			 /* The mask registers went along: k1 xor k2 is all ones, or rounds is spoilt. */
			 "kxnorw %%k1, %%k2, %%k1\n\tkmovw %%k1, %%eax\n\taddq %%rax, %[rounds]\n\t"
#endif
			 "vzeroupper"
			 : [rounds] "+r"(rounds)
			 : [start] "r"(start), [end] "r"(end), [finish] "m"(finish),
			   [lanes] "i"(LANES)
			 : "memory", "cc", "rax"
#ifdef __AVX512F__
			 , "k1", "k2", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21",
			   "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29",
			   "xmm30", "xmm31"
#endif
			 , "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
			   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	return rounds;
}

static void *tick(void *unused)
{
	const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };

	for (int count = 0; access("finish", F_OK) != 0; count++) {
		nanosleep(&pause, NULL);
		printf("tick %d\n", count);
		fflush(stdout);
	}
	finish = 1;
	return unused;
}

int main(void)
{
	pthread_t ticker;
	uint64_t rounds, wrong = 0;

	for (int r = 0; r < REGISTERS; r++)
		for (int lane = 0; lane < LANES; lane++)
			start[r][lane] = lane + (r == 0 ? 1 : r * 0x0123456789abcdefULL);
	if (pthread_create(&ticker, NULL, tick, NULL) != 0)
		return 2;
	rounds = spin();
	pthread_join(ticker, NULL);
	for (int r = 1; r < REGISTERS; r++)
		for (int lane = 0; lane < LANES; lane++)
			wrong += end[r][lane] != start[r][lane] + rounds * (lane + 1);
	printf("%s %s %llu rounds\n", wrong ? "WRONG" : "DONE", VECTOR, (unsigned long long)rounds);
	return wrong != 0;
}

/* Fifteen general registers, the stack pointer and a flag of a thread that runs in user space. */
#include "selfcheck.h"

volatile int regs_spinning, regs_stop;
uint64_t regs_got[18];
void *regs_spin(void *);

/* Loads known values, spins without a system call, stores what it then has. */
__asm__(".text\n.globl regs_spin\n.type regs_spin, @function\nregs_spin:\n"
	"push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
	"mov %rsp, regs_got+128(%rip)\n"
	"movabs $0x1111111100000001, %rax\nmovabs $0x1111111100000002, %rbx\n"
	"movabs $0x1111111100000003, %rcx\nmovabs $0x1111111100000004, %rdx\n"
	"movabs $0x1111111100000005, %rsi\nmovabs $0x1111111100000006, %rdi\n"
	"movabs $0x1111111100000007, %rbp\nmovabs $0x1111111100000008, %r8\n"
	"movabs $0x1111111100000009, %r9\nmovabs $0x111111110000000a, %r10\n"
	"movabs $0x111111110000000b, %r11\nmovabs $0x111111110000000c, %r12\n"
	"movabs $0x111111110000000d, %r13\nmovabs $0x111111110000000e, %r14\n"
	"movabs $0x111111110000000f, %r15\n"
	"movl $1, regs_spinning(%rip)\nstd\n"
	"1: pause\ncmpl $0, regs_stop(%rip)\nje 1b\n"
	"mov %rax, regs_got+0(%rip)\nmov %rbx, regs_got+8(%rip)\n"
	"mov %rcx, regs_got+16(%rip)\nmov %rdx, regs_got+24(%rip)\n"
	"mov %rsi, regs_got+32(%rip)\nmov %rdi, regs_got+40(%rip)\n"
	"mov %rbp, regs_got+48(%rip)\nmov %r8, regs_got+56(%rip)\n"
	"mov %r9, regs_got+64(%rip)\nmov %r10, regs_got+72(%rip)\n"
	"mov %r11, regs_got+80(%rip)\nmov %r12, regs_got+88(%rip)\n"
	"mov %r13, regs_got+96(%rip)\nmov %r14, regs_got+104(%rip)\n"
	"mov %r15, regs_got+112(%rip)\nmov %rsp, regs_got+136(%rip)\n"
	"pushf\npop %rax\nmov %rax, regs_got+120(%rip)\ncld\n"
	"pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n");

int main(int argc, char **argv)
{
	static const char *const names[] = { "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8",
					     "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
	pthread_t thread;

	selfcheck_begin(argc, argv);
	REQUIRE(!pthread_create(&thread, 0, regs_spin, 0));
	while (!regs_spinning)
		;
	selfcheck_park();
	regs_stop = 1;
	pthread_join(thread, 0);
	for (int i = 0; i < 15; i++)
		check_int(names[i], 0x1111111100000001LL + i, (long long)regs_got[i]);
	check_int("rsp", (long long)regs_got[16], (long long)regs_got[17]);
	check_int("direction flag", 1, regs_got[15] >> 10 & 1);
	return selfcheck_end();
}

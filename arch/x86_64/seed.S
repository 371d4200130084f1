/*
 * The seed: the whole program that a restored process starts as.
 *
 * A hand-written ELF of one page: one read-execute segment, no data, no interpreter, a stack that
 * is not executable. It is started under ptrace, traps, and traps again whenever it is let go, so
 * that all it ever does is what the tracer puts into its registers. It uses no stack and no data.
 *
 * Built (only by the test that compares it with machine_code.py) as
 *	gcc -c seed.S && ld -Ttext=0 --oformat binary
 * The load address is patched into E_ENTRY and P_VADDR at run time: the code is
 * position-independent, and the restorer picks an address that the target does not use.
 *
 * An init that reaps (for a new pid namespace) will be a second entry point behind seed_end.
 */
	.set	LOAD, 0x10000

	.text
	.globl	_start
_start:
elf_header:				/* Elf64_Ehdr */
	.byte	0x7f, 'E', 'L', 'F', 2, 1, 1, 0
	.quad	0
	.short	2			/* ET_EXEC */
	.short	62			/* EM_X86_64 */
	.long	1			/* EV_CURRENT */
	.globl	seed_e_entry
seed_e_entry:
	.quad	LOAD + seed_start - elf_header
	.quad	program_headers - elf_header
	.quad	0			/* no sections */
	.long	0
	.short	64			/* sizeof(Elf64_Ehdr) */
	.short	56			/* sizeof(Elf64_Phdr) */
	.short	2
	.short	0, 0, 0

program_headers:
	.long	1, 5			/* PT_LOAD, PF_R | PF_X */
	.quad	0
	.globl	seed_p_vaddr
seed_p_vaddr:
	.quad	LOAD, LOAD		/* p_vaddr, p_paddr */
	.quad	seed_end - elf_header, seed_end - elf_header
	.quad	0x1000

	.long	0x6474e551, 6		/* PT_GNU_STACK, PF_R | PF_W */
	.quad	0, 0, 0, 0, 0, 16

/* rip is seed_start + 1 in the first stop and in every later one. */
	.globl	seed_start
seed_start:
	int3
	jmp	seed_start

/* For single calls before there is a tape: rip here, registers set, the next stop is int3. */
	.globl	seed_syscall
seed_syscall:
	syscall
	int3
	jmp	seed_start

	.globl	seed_int80
seed_int80:
	int	$0x80
	int3
	jmp	seed_start
seed_end:

/*
 * The tape player: runs an array of system calls in one go and traps.
 *
 *	r12	the current entry
 *	r13	the end of the entries (address of the first byte behind the last one)
 *
 * Position-independent, uses no stack and no memory but the entries; runs from anonymous memory.
 * An entry is 80 bytes (struct Entry in machine_code.py):
 *
 *	 0	u32	nr
 *	 4	u32	how: 0 syscall, 1 int $0x80
 *	 8	u64	args[6]
 *	56	u64	low	the call succeeded if result - low <= span, unsigned:
 *	64	u64	span	exact value, range, "no error" and "anything" are all one comparison
 *	72	u64	result	written by the player
 *
 * Where it traps (rip is the label + 1), and what the host finds there:
 *	tape_end	r12 == r13; every result is in its entry
 *	tape_mismatch	r12 is the entry that failed, its result is stored
 *
 * A clone, clone3 or fork entry starts a task that goes on behind the instruction with rax = 0 and
 * the same r12. With PTRACE_O_TRACECLONE/FORK/VFORK it is attached and stopped before it executes
 * anything. The host must give it a rip and r12 of its own before it lets it go: if it went on as
 * it is, it would store its 0 over the parent's result when they share memory.
 *
 * Signals must be blocked while a tape plays, and no entry may unmap the player or the entries:
 * that last munmap is made by single-stepping tape_syscall.
 */
	.set	NR, 0
	.set	HOW, 4
	.set	ARGS, 8
	.set	LOW, 56
	.set	SPAN, 64
	.set	RESULT, 72
	.set	ENTRY_SIZE, 80

	.text
	.globl	_start, tape_start
_start:
tape_start:
	cmp	%r13, %r12
	jae	tape_end
	mov	NR(%r12), %eax
	cmpl	$0, HOW(%r12)
	jne	by_int80
	mov	ARGS(%r12), %rdi
	mov	ARGS+8(%r12), %rsi
	mov	ARGS+16(%r12), %rdx
	mov	ARGS+24(%r12), %r10
	mov	ARGS+32(%r12), %r8
	mov	ARGS+40(%r12), %r9
	syscall				/* clobbers rcx and r11 */
check:
	mov	%rax, RESULT(%r12)
	sub	LOW(%r12), %rax
	cmp	SPAN(%r12), %rax
	ja	tape_mismatch
	add	$ENTRY_SIZE, %r12
	jmp	tape_start

by_int80:
	mov	ARGS(%r12), %ebx
	mov	ARGS+8(%r12), %ecx
	mov	ARGS+16(%r12), %edx
	mov	ARGS+24(%r12), %esi
	mov	ARGS+32(%r12), %edi
	mov	ARGS+40(%r12), %ebp
	int	$0x80			/* rax is the sign-extended 32-bit result */
	jmp	check

	.globl	tape_end
tape_end:
	int3
	jmp	tape_end

	.globl	tape_mismatch
tape_mismatch:
	int3
	jmp	tape_mismatch

/* Plain instructions, for single calls and for re-arming interrupted ones. */
	.globl	tape_syscall
tape_syscall:
	syscall
	int3
	jmp	tape_end

	.globl	tape_int80
tape_int80:
	int	$0x80
	int3
	jmp	tape_end

/*
 * Three questions to the CPU, as C functions (System V ABI), for cpuid.py. The bytes are checked
 * in there; a unit test assembles this file and compares.
 */
	.text
	.globl	_start, cpuid, xgetbv, fxsave
_start:
/* void cpuid(u32 leaf, u32 subleaf, u32 out[4]) */
cpuid:
	push	%rbx
	mov	%rdx, %r8
	mov	%edi, %eax
	mov	%esi, %ecx
	cpuid
	mov	%eax, 0(%r8)
	mov	%ebx, 4(%r8)
	mov	%ecx, 8(%r8)
	mov	%edx, 12(%r8)
	pop	%rbx
	ret

/* u64 xgetbv(void): XCR0 */
xgetbv:
	xor	%ecx, %ecx
	xgetbv
	shl	$32, %rdx
	or	%rdx, %rax
	ret

/* void fxsave(void *area): 512 bytes, aligned to 16 */
fxsave:
	fxsave	(%rdi)
	ret

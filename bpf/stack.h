/* Record of the iterator that reads one task's kernel stack (stack.bpf.c): return addresses. */
#ifndef CKPT_STACK_H
#define CKPT_STACK_H

#define STACK_MAX_FRAMES 40

#endif

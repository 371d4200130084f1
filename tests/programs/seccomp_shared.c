/* Filters that threads share (TSYNC) and a longer chain of one; TSYNC goes on working afterwards. */
#include "selfcheck.h"
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "selfcheck_threads.h"

static int others_checked;

static long deny(int nr, int error, unsigned int flags)
{
	struct sock_filter code[] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
				      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
				      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
				      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 4, code };

	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static void build(struct worker *w)
{
	if (w->index == 1)
		REQUIRE(!deny(SYS_getpgrp, 71, SECCOMP_FILTER_FLAG_LOG));
}

static void check(struct worker *w)
{
	check_errno("getppid, denied to all", 70, syscall(SYS_getppid));
	if (w->index == 1)
		check_errno("getpgrp, denied to one", 71, syscall(SYS_getpgrp));
	else
		check_int("getpgrp", getpgid(0), syscall(SYS_getpgrp));
	if (w->index == 0) {
		__atomic_store_n(&others_checked, 1, __ATOMIC_RELEASE);
		return;
	}
	while (!__atomic_load_n(&others_checked, __ATOMIC_ACQUIRE))
		sleep_ms(1);
	/* Works only while the filters of all other threads are, as objects, part of our chain. */
	check_int("TSYNC", 0, deny(SYS_getuid, 72, SECCOMP_FILTER_FLAG_TSYNC));
}

int main(int argc, char **argv)
{
	struct worker workers[2] = { 0 };

	selfcheck_begin(argc, argv);
	REQUIRE(!deny(SYS_getppid, 70, 0));
	run_workers(workers, 2, build, check);
	check_errno("getuid, denied to all by TSYNC", 72, syscall(SYS_getuid));
	return selfcheck_end();
}

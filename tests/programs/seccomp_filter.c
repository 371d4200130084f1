/* Seccomp filters: two stacked in one thread, another one in a second, none in the third. */
#include "selfcheck_proc.h"
#include "selfcheck_threads.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>

/* Refuses `nr` with `error`, allows everything else. */
static void refuse(int nr, int error, unsigned flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	REQUIRE(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program));
}

static void build(struct worker *w)
{
	if (w->index == 2)
		return;
	REQUIRE(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (w->index == 0) {
		refuse(SYS_getppid, ENOTBLK, SECCOMP_FILTER_FLAG_LOG);
		refuse(SYS_sync, EXDEV, 0);
	} else {
		refuse(SYS_getppid, ENODEV, 0);
	}
}

static void check(struct worker *w)
{
	static const char *const filters[] = { "2", "1", "0" };
	char text[32];

	if (w->index == 0) {
		check_errno("getppid", ENOTBLK, syscall(SYS_getppid));
		check_errno("sync", EXDEV, syscall(SYS_sync));
	} else if (w->index == 1) {
		check_errno("getppid", ENODEV, syscall(SYS_getppid));
	} else {
		check_ok("getppid", syscall(SYS_getppid));
	}
	proc_thread_status(w->tid, "Seccomp_filters", text, sizeof(text));
	check_str("Seccomp_filters", filters[w->index], text);
	proc_thread_status(w->tid, "Seccomp", text, sizeof(text));
	check_str("Seccomp", w->index < 2 ? "2" : "0", text);
}

int main(int argc, char **argv)
{
	struct worker workers[3] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 3, build, check);
	return selfcheck_end();
}

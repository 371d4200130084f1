/* Capability sets (effective, permitted, inheritable, bounding, ambient) of each thread. */
#include "selfcheck_proc.h"
#include "selfcheck_threads.h"
#include <linux/capability.h>

static void set_caps(unsigned effective, unsigned permitted, unsigned inheritable)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { effective, permitted, inheritable }, { 0, 0, 0 } };

	REQUIRE(!syscall(SYS_capset, &header, data));
}

static const char *const keys[] = { "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb" };

static void remember(struct worker *w)
{
	for (int i = 0; i < 5; i++)
		proc_thread_status(w->tid, keys[i], (char *)&w->data[i * 4], 32);
}

static void build(struct worker *w)
{
	if (w->index == 0) {
		REQUIRE(!prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
		REQUIRE(!prctl(PR_CAPBSET_DROP, CAP_NET_RAW));
		set_caps(1u << CAP_CHOWN, 1u << CAP_CHOWN | 1u << CAP_KILL | 1u << CAP_NET_ADMIN,
			 1u << CAP_KILL | 1u << CAP_NET_ADMIN);
		REQUIRE(!prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
	} else if (w->index == 1) {
		set_caps(0, 0, 0);
	}
	remember(w);
}

static void check(struct worker *w)
{
	struct worker now = { .tid = w->tid };

	remember(&now);
	for (int i = 0; i < 5; i++)
		check_str(keys[i], (char *)&w->data[i * 4], (char *)&now.data[i * 4]);
}

int main(int argc, char **argv)
{
	struct worker workers[3] = { 0 };

	selfcheck_begin(argc, argv);
	run_workers(workers, 3, build, check);
	return selfcheck_end();
}

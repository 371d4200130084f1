/* Hardware watchpoints that a debugger set and then left: they still fire. */
#include "selfcheck.h"
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

static volatile long watched, plain;
static volatile int hits, hit_code;

static void on_trap(int sig, siginfo_t *info, void *context)
{
	(void)sig;
	(void)context;
	hits++;
	hit_code = info->si_code;
}

/* Runs in a helper that traces its parent, sets DR0 and DR7, and detaches. */
static int set_watchpoint(pid_t target)
{
	long dr7 = 1 | 1 << 16 | 3 << 18; /* local enable 0, write, 8 bytes */
	int status;

	if (ptrace(PTRACE_SEIZE, target, 0, 0) || ptrace(PTRACE_INTERRUPT, target, 0, 0))
		return 1;
	waitpid(target, &status, __WALL);
	if (ptrace(PTRACE_POKEUSER, target, offsetof(struct user, u_debugreg[0]), &watched) ||
	    ptrace(PTRACE_POKEUSER, target, offsetof(struct user, u_debugreg[7]), dr7))
		return 2;
	return ptrace(PTRACE_DETACH, target, 0, 0) ? 3 : 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = on_trap, .sa_flags = SA_SIGINFO };
	pid_t self = getpid(), helper;
	int status;

	selfcheck_begin(argc, argv);
	sigaction(SIGTRAP, &action, 0);
	helper = fork();
	if (!helper)
		_exit(set_watchpoint(self));
	REQUIRE(waitpid(helper, &status, 0) == helper);
	REQUIRE(WIFEXITED(status) && !WEXITSTATUS(status));
	watched = 1;
	REQUIRE(hits == 1);
	selfcheck_park();
	check_int("hits while parked", 1, hits);
	plain = 2;
	check_int("hits after a write elsewhere", 1, hits);
	watched = 2;
	check_int("hits after a write to the watched word", 2, hits);
	check_int("si_code", TRAP_HWBKPT, hit_code);
	return selfcheck_end();
}

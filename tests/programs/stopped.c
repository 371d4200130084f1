/* Parks and checks that a stop signal neither ran a handler nor changed a sleep. */
#include "selfcheck_proc.h"

static volatile int continued;

static void on_cont(int sig)
{
	(void)sig;
	continued++;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_cont, .sa_flags = SA_RESTART };

	selfcheck_begin(argc, argv);
	sigaction(SIGCONT, &action, 0);
	selfcheck_park();
	check_int("SIGCONT handled", 1, continued);
	return selfcheck_end();
}

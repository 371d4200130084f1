/* Executes itself again and again, from a thread that is not the main one if argv[2] is "thread". */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

static char **arguments;

static void *again(void *unused)
{
	(void)unused;
	usleep(3000);
	execv("/proc/self/exe", arguments);
	_exit(1);
}

int main(int argc, char **argv)
{
	pthread_t thread;

	arguments = argv;
	if (argc < 3 || chdir(argv[1]))
		return 1;
	close(open("ready", O_WRONLY | O_CREAT, 0644));
	if (strcmp(argv[2], "thread"))
		again(NULL);
	if (pthread_create(&thread, NULL, again, NULL))
		return 1;
	for (;;)
		pause();
}

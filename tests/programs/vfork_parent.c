/* A parent in vfork whose child neither executes a program nor ends. Argument: the folder. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	if (argc < 2 || chdir(argv[1]))
		return 1;
	if (vfork() == 0) {
		close(open("ready", O_WRONLY | O_CREAT, 0644));
		for (;;)
			pause();
	}
	return 0;
}

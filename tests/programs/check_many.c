/*
 * Many things at once that a snapshot refuses or warns of, and a name that is not for terminals.
 * DIR/numbers says which descriptors and addresses they have.
 */
#include "selfcheck.h"
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <sys/wait.h>

static int listen_somewhere(void)
{
	struct sockaddr_in here = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	REQUIRE(fd >= 0);
	here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	REQUIRE(!bind(fd, (struct sockaddr *)&here, sizeof(here)) && !listen(fd, 1));
	return fd;
}

static void *map_deleted(void)
{
	char path[600];
	void *at;
	int fd;

	selfcheck_path(path, sizeof(path), "gone");
	fd = open(path, O_RDWR | O_CREAT, 0600);
	REQUIRE(fd >= 0 && !ftruncate(fd, 1 << 16));
	REQUIRE(pwrite(fd, path, sizeof(path), 0) == sizeof(path));
	at = mmap(0, 1 << 16, PROT_READ, MAP_PRIVATE, fd, 0);
	REQUIRE(at != MAP_FAILED && !close(fd) && !unlink(path));
	return at;
}

int main(int argc, char **argv)
{
	struct rlimit cpu = { 1000, 2000 };
	char text[300];
	int watch, sock, id;
	void *segment, *gone;
	pid_t child;

	selfcheck_begin(argc, argv);
	prctl(PR_SET_NAME, "\033[2Jevil\n<b>");
	REQUIRE(!setrlimit(RLIMIT_CPU, &cpu));
	watch = inotify_init1(0);
	REQUIRE(watch >= 0);
	sock = listen_somewhere();
	id = shmget(IPC_PRIVATE, 8192, 0600);
	REQUIRE(id >= 0);
	segment = shmat(id, 0, 0);
	REQUIRE(segment != (void *)-1 && !shmctl(id, IPC_RMID, 0));
	gone = map_deleted();
	child = fork();
	REQUIRE(child >= 0);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	snprintf(text, sizeof(text), "%d %d %lx %lx %d\n", watch, sock, (long)segment, (long)gone,
		 child);
	selfcheck_publish("numbers", text);
	selfcheck_park();
	kill(child, SIGKILL);
	check_int("the child is ours", child, waitpid(child, 0, 0));
	return selfcheck_end();
}

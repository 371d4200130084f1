/* Threads that make, use and close descriptors of every sort without a pause, through it all. */
#include "selfcheck_fds.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#define THREADS 3

static _Atomic int stop;
static _Atomic long rounds;

static void use_pair(const char *what, int from, int to)
{
	char got[4] = "";

	check_int(what, 2, write(from, "ab", 2));
	check_int(what, 2, read(to, got, sizeof(got)));
	check_str(what, "ab", got);
}

static void *churn(void *path)
{
	while (!stop) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = 7 };
		int pipe_fds[2], pair[2], file, folder, count, epoll;

		check_ok("open a folder", folder = open("/", O_RDONLY | O_DIRECTORY));
		check_ok("pipe", pipe(pipe_fds));
		check_ok("socketpair", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
		check_ok("epoll", epoll = epoll_create1(EPOLL_CLOEXEC));
		check_ok("eventfd", count = eventfd(0, 0));
		check_ok("open a file", file = open(path, O_RDWR | O_CREAT, 0600));
		check_ok("EPOLL_CTL_ADD", epoll_ctl(epoll, EPOLL_CTL_ADD, count, &event));
		use_pair("pipe", pipe_fds[1], pipe_fds[0]);
		use_pair("pair", pair[0], pair[1]);
		check_ok("eventfd_write", eventfd_write(count, 1));
		event.data.u32 = 0;
		check_int("epoll_wait", 1, epoll_wait(epoll, &event, 1, 1000));
		check_int("epoll data", 7, event.data.u32);
		check_int("pwrite", 3, pwrite(file, "xyz", 3, 5));
		check_ok("close", close(file) | close(count) | close(epoll) | close(pair[0]) | close(pair[1]));
		check_ok("close", close(pipe_fds[0]) | close(pipe_fds[1]) | close(folder));
		rounds++;
	}
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	char path[600];
	long before;

	selfcheck_begin(argc, argv);
	selfcheck_path(path, sizeof(path), "file");
	for (int i = 0; i < THREADS; i++)
		REQUIRE(!pthread_create(&threads[i], 0, churn, path));
	while (rounds < 100)
		sleep_ms(1);
	selfcheck_park();
	before = rounds;
	for (int i = 0; i < 2000 && rounds < before + 100; i++)
		sleep_ms(5);
	if (rounds < before + 100)
		fail("rounds afterwards: expected 100 got %ld", rounds - before);
	stop = 1;
	for (int i = 0; i < THREADS; i++)
		check_int("join", 0, pthread_join(threads[i], 0));
	return selfcheck_end();
}

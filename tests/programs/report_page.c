/*
 * A process with something for every part of a report, and names that would be markup:
 * threads in different calls, descriptors that are shared or belong together, all kinds of memory.
 * Usage: report_page DIR [threads areas descriptors]
 */
#include "selfcheck.h"
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define PAGE 4096
#define MARKUP "<script>document.title='owned'</script>"

static uint32_t word;

static void __attribute__((noinline)) wait_for_ever(void)
{
	syscall(SYS_futex, &word, FUTEX_WAIT, 0, 0, 0, 0);
	__asm__ volatile("" ::: "memory");
}

static void *worker(void *unused)
{
	prctl(PR_SET_NAME, "worker");
	for (;;)
		wait_for_ever();
	return unused;
}

static void *sleeper(void *unused)
{
	const struct timespec long_time = { 1000, 0 };

	prctl(PR_SET_NAME, "<b>sleeper\033[1m");
	for (;;)
		if (nanosleep(&long_time, 0))
			fail("the sleep ended with %d", errno);
	return unused;
}

static void *reader(void *fds)
{
	char byte;

	prctl(PR_SET_NAME, "reader");
	for (;;)
		if (read(((int *)fds)[0], &byte, 1) < 0)
			fail("the read ended with %d", errno);
	return 0;
}

static void *poller(void *fd)
{
	struct epoll_event event;

	prctl(PR_SET_NAME, "poller");
	for (;;)
		if (epoll_wait(*(int *)fd, &event, 1, 500000) < 0)
			fail("the epoll_wait ended with %d", errno);
	return 0;
}

static void start(void *(*run)(void *), void *with)
{
	pthread_attr_t attr;
	pthread_t thread;

	REQUIRE(!pthread_attr_init(&attr) && !pthread_attr_setstacksize(&attr, 16 * PAGE));
	REQUIRE(!pthread_create(&thread, &attr, run, with));
}

static void *area(size_t size, int prot, size_t touched)
{
	char *at = mmap(0, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	REQUIRE(at != MAP_FAILED);
	if (touched)
		memset(at, 'x', touched);
	return at;
}

static void make_memory(size_t areas)
{
	char path[600];
	int fd;

	area((size_t)3 << 40, PROT_NONE, 0);
	area(64 << 20, PROT_READ | PROT_WRITE, 24 << 20);
	area(1 << 20, PROT_READ | PROT_WRITE | PROT_EXEC, 200000);
	memset(malloc(100000), 'h', 100000);
	memset(malloc(100000), 'h', 100000);
	REQUIRE(mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) !=
		MAP_FAILED);
	snprintf(path, sizeof(path), "%s/evil \"'<img src=x onerror=alert(1)>&amp;", selfcheck_dir);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	REQUIRE(fd >= 0 && !ftruncate(fd, 40 * PAGE));
	REQUIRE(mmap(0, 40 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0) != MAP_FAILED);
	/* Every other page of another kind keeps neighbours from becoming one area. */
	char *many = area((areas + 1) * PAGE, PROT_READ | PROT_WRITE, areas ? areas * PAGE : 0);

	for (size_t i = 0; i < areas; i += 2)
		REQUIRE(!mprotect(many + i * PAGE, PAGE, PROT_READ));
}

static void make_files(size_t descriptors, int *pipe_fds, int *watcher)
{
	struct epoll_event event = { .events = EPOLLIN };
	int pair[2], fd = eventfd(7, EFD_CLOEXEC);

	REQUIRE(fd >= 0 && dup(fd) >= 0 && dup(fd) >= 0);
	REQUIRE(!pipe(pipe_fds) && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	REQUIRE(write(pair[0], MARKUP, sizeof(MARKUP)) == sizeof(MARKUP));
	*watcher = epoll_create1(0);
	REQUIRE(*watcher >= 0);
	REQUIRE(!epoll_ctl(*watcher, EPOLL_CTL_ADD, pipe_fds[0], &event));
	REQUIRE(!epoll_ctl(*watcher, EPOLL_CTL_ADD, pair[0], &event));
	REQUIRE(memfd_create(MARKUP, 0) >= 0);
	REQUIRE(open(selfcheck_dir, O_RDONLY | O_DIRECTORY) >= 0);
	for (size_t i = 0; i < descriptors; i++)
		REQUIRE(eventfd(i & 1, 0) >= 0);
}

int main(int argc, char **argv)
{
	size_t sizes[3] = { 6, 0, 0 };
	struct rlimit limit;
	int fds[2], watcher;

	selfcheck_begin(argc, argv);
	for (int i = 0; i < 3 && i + 2 < argc; i++)
		sizes[i] = strtoul(argv[i + 2], 0, 10);
	REQUIRE(!getrlimit(RLIMIT_NOFILE, &limit));
	limit.rlim_cur = limit.rlim_max;
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &limit));
	make_memory(sizes[1]);
	make_files(sizes[2], fds, &watcher);
	for (size_t i = 0; i < sizes[0]; i++)
		start(worker, 0);
	start(sleeper, 0);
	start(reader, fds);
	start(poller, &watcher);
	prctl(PR_SET_NAME, "<script>evil");
	selfcheck_park();
	return selfcheck_end();
}

/* epoll over the kinds: nested, edge-triggered, one-shot (spent or not), data words, a dup'ed fd. */
#include "selfcheck_fds.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

static void add(int epoll, int fd, unsigned events, uint64_t data)
{
	struct epoll_event event = { .events = events, .data.u64 = data };

	REQUIRE(!epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

/* Which of the data words are reported now, as a set of bits 0..15 of the low nibbles. */
static unsigned ready_now(int epoll)
{
	struct epoll_event events[32];
	unsigned set = 0;
	int n = epoll_wait(epoll, events, 32, 0);

	check_ok("epoll_wait", n);
	for (int i = 0; i < n; i++) {
		if (events[i].data.u64 >> 4 != 0xfeedfacecafebeULL)
			fail("data word: expected 0xfeedfacecafebe? got %#lx", (long)events[i].data.u64);
		set |= 1u << (events[i].data.u64 & 15);
	}
	return set;
}

/*
 * Each line of fdinfo, up to the inode: new pipes and sockets have other inodes, and the kernel
 * prints the items in the order of its addresses.
 */
static void check_watches(char *before, const char *after)
{
	int lines = 0, found = 0;

	for (char *line = strtok(before, "\n"); line; line = strtok(0, "\n")) {
		char *end = strstr(line, "pos:");

		if (strncmp(line, "tfd:", 4) || !end)
			continue;
		*end = 0;
		lines++;
		if (strstr(after, line))
			found++;
		else
			fail("fdinfo: expected \"%s\" got \"%s\"", line, after);
	}
	check_int("watches in fdinfo", 9, lines);
	for (const char *at = after; (at = strstr(at, "tfd:")); at++)
		found--;
	check_int("watches too many", 0, found);
}

#define WORD(n) (0xfeedfacecafebe0ULL | (n))

int main(int argc, char **argv)
{
	int epoll, inner, level, edge, spent, unspent, pipe_fds[2], pair[2], timer, old, duplicate;
	char before[4096], after[4096], path[64];
	struct epoll_event again;

	selfcheck_begin(argc, argv);
	epoll = epoll_create1(EPOLL_CLOEXEC);
	inner = epoll_create1(0);
	level = eventfd(1, 0);
	edge = eventfd(1, 0);
	spent = eventfd(1, 0);
	unspent = eventfd(0, 0);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	REQUIRE(!pipe(pipe_fds) && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	old = eventfd(0, 0);
	add(epoll, level, EPOLLIN, WORD(0));
	add(epoll, edge, EPOLLIN | EPOLLET, WORD(1));
	add(epoll, spent, EPOLLIN | EPOLLONESHOT, WORD(2));
	add(epoll, unspent, EPOLLIN | EPOLLONESHOT, WORD(3));
	add(epoll, pipe_fds[0], EPOLLIN | EPOLLRDHUP, WORD(4));
	add(epoll, pair[0], EPOLLIN | EPOLLPRI, WORD(5));
	add(epoll, timer, EPOLLIN, WORD(6));
	add(epoll, inner, EPOLLIN, WORD(7));
	add(inner, pair[1], EPOLLIN, WORD(8));
	add(epoll, old, EPOLLIN, WORD(9));
	/* the registered number is closed; the same open file lives on under another */
	duplicate = dup(old);
	close(old);
	REQUIRE(ready_now(epoll) == 7); /* consumes the edge and the one-shot */
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", epoll);
	proc_read(path, before, sizeof(before));
	selfcheck_park();
	proc_read(path, after, sizeof(after));
	check_watches(before, after);
	check_int("ready: only the level-triggered one", 1, ready_now(epoll));
	REQUIRE(!eventfd_write(edge, 1) && !eventfd_write(unspent, 1));
	check_int("new edge and unspent one-shot", 1 | 2 | 8, ready_now(epoll));
	check_int("then only the level-triggered one", 1, ready_now(epoll));
	put(pipe_fds[1], "x");
	put(pair[0], "to inner");
	put(pair[1], "to outer");
	timerfd_settime(timer, 0, &(struct itimerspec){ .it_value = { 0, 1 } }, 0);
	sleep_ms(2);
	check_int("pipe, socket, timer and inner epoll", 1 | 16 | 32 | 64 | 128, ready_now(epoll));
	check_int("inner", 1 << 8, ready_now(inner));
	again = (struct epoll_event){ .events = EPOLLIN | EPOLLONESHOT, .data.u64 = WORD(2) };
	check_ok("re-arming the one-shot", epoll_ctl(epoll, EPOLL_CTL_MOD, spent, &again));
	check_int("one-shot again", 4, (int)ready_now(epoll) & 4);
	REQUIRE(!eventfd_write(duplicate, 1));
	check_int("file behind a closed number", 512, (int)ready_now(epoll) & 512);
	return selfcheck_end();
}

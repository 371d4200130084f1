/* Reads, writes and locks that wait: pipes, eventfd, timerfd, sockets, flock, fcntl locks. */
#include "blocked.h"
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#ifndef F_OFD_SETLKW
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#endif

static int pipe_fds[2], pair[2], event, timer, held, wanted;
static char buffer[70000];

static void setup(void)
{
	REQUIRE(!pipe(pipe_fds) && !socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	event = eventfd(0, 0);
	timer = timerfd_create(CLOCK_MONOTONIC, 0);
	REQUIRE(event >= 0 && timer >= 0);
}

static long read_pipe(void)
{
	return read(pipe_fds[0], buffer, sizeof(buffer));
}

static void write_pipe(void)
{
	REQUIRE(write(pipe_fds[1], "woken", 5) == 5);
}

static void setup_full(void)
{
	setup();
	memset(buffer, 'f', sizeof(buffer));
	REQUIRE(write(pipe_fds[1], buffer, 65536) == 65536);
}

static long write_full(void)
{
	return write(pipe_fds[1], "more", 4);
}

static void drain(void)
{
	static char drained[65536];

	check_int("drained", 65536, read(pipe_fds[0], drained, sizeof(drained)));
	check_fill("data in the pipe", 'f', drained, sizeof(drained));
}

static long read_event(void)
{
	return read(event, buffer, 8);
}

static void write_event(void)
{
	eventfd_write(event, 5);
}

static void check_event(void)
{
	check_int("counter", 5, buffer[0]);
}

static long read_timer(void)
{
	struct itimerspec spec = { .it_value = limit_ts };

	REQUIRE(!timerfd_settime(timer, 0, &spec, 0));
	return read(timer, buffer, 8);
}

static long receive(void)
{
	return recv(pair[0], buffer, 100, 0);
}

static long receive_message(void)
{
	struct iovec iov = { buffer, 100 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

	return recvmsg(pair[0], &message, 0);
}

static void send_five(void)
{
	REQUIRE(send(pair[1], "woken", 5, 0) == 5);
}

static void check_woken(void)
{
	check_mem("data", "woken", buffer, 5);
}

static void setup_timeout(void)
{
	struct timeval tv = { limit_ts.tv_sec, limit_ts.tv_nsec / 1000 };

	setup();
	REQUIRE(!setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)));
}

static void check_timeout_kept(void)
{
	struct timeval tv = { 0 };
	socklen_t len = sizeof(tv);

	getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &tv, &len);
	check_int("SO_RCVTIMEO s", limit_ts.tv_sec, tv.tv_sec);
	check_int("SO_RCVTIMEO us", limit_ts.tv_nsec / 1000, tv.tv_usec);
}

static int open_lock(void)
{
	char path[600];

	selfcheck_path(path, sizeof(path), "lock");
	return open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0644);
}

static void setup_flock(void)
{
	held = open_lock();
	wanted = open_lock();
	REQUIRE(held >= 0 && wanted >= 0 && !flock(held, LOCK_EX));
}

static long lock_whole(void)
{
	return flock(wanted, LOCK_EX);
}

static void unlock_whole(void)
{
	flock(held, LOCK_UN);
}

static struct flock range(int type)
{
	return (struct flock){ .l_type = (short)type, .l_whence = SEEK_SET, .l_start = 5, .l_len = 10 };
}

static void setup_ofd(void)
{
	struct flock lock = range(F_WRLCK);

	held = open_lock();
	wanted = open_lock();
	REQUIRE(!fcntl(held, F_OFD_SETLK, &lock));
}

static long lock_ofd(void)
{
	struct flock lock = range(F_WRLCK);

	return fcntl(wanted, F_OFD_SETLKW, &lock);
}

static void unlock_ofd(void)
{
	struct flock lock = range(F_UNLCK);

	fcntl(held, F_OFD_SETLK, &lock);
}

/* A process that is not our child holds the lock until told to let go. */
static void setup_posix(void)
{
	struct flock lock = range(F_WRLCK);
	char path[600];
	pid_t child;

	wanted = open_lock();
	selfcheck_path(path, sizeof(path), "release");
	child = fork();
	if (!child) {
		if (fork())
			_exit(0);
		fcntl(wanted, F_SETLK, &lock);
		selfcheck_publish("locked", "");
		for (int i = 0; i < 10000 && access(path, F_OK); i++)
			sleep_ms(2);
		_exit(0);
	}
	REQUIRE(waitpid(child, 0, 0) == child);
	selfcheck_path(path, sizeof(path), "locked");
	for (int i = 0; i < 1000 && access(path, F_OK); i++)
		sleep_ms(2);
}

static long lock_posix(void)
{
	struct flock lock = range(F_WRLCK);

	return fcntl(wanted, F_SETLKW, &lock);
}

static void release_posix(void)
{
	selfcheck_publish("release", "");
}

static const struct blocked_case cases[] = {
	{ "pipe", SYS_read, FOREVER, 5, 0, read_pipe, setup, write_pipe, check_woken },
	{ "pipe_full", SYS_write, FOREVER, 4, 0, write_full, setup_full, drain, 0 },
	{ "eventfd", SYS_read, FOREVER, 8, 0, read_event, setup, write_event, check_event },
	{ "timerfd", SYS_read, LASTS, 8, 0, read_timer, setup, 0, 0 },
	{ "recv", SYS_recvfrom, FOREVER, 5, 0, receive, setup, send_five, check_woken },
	{ "recvmsg", SYS_recvmsg, FOREVER, 5, 0, receive_message, setup, send_five, check_woken },
	{ "recv_rcvtimeo", SYS_recvfrom, LASTS_BY_WHEEL, -1, EAGAIN, receive, setup_timeout, 0, check_timeout_kept },
	{ "recv_rcvtimeo_woken", SYS_recvfrom, FOREVER, 5, 0, receive, setup_timeout, send_five,
	  check_timeout_kept },
	{ "flock", SYS_flock, FOREVER, 0, 0, lock_whole, setup_flock, unlock_whole, 0 },
	{ "ofd_lock", SYS_fcntl, FOREVER, 0, 0, lock_ofd, setup_ofd, unlock_ofd, 0 },
	{ "posix_lock", SYS_fcntl, FOREVER, 0, 0, lock_posix, setup_posix, release_posix, 0 },
};

BLOCKED_PROGRAM(cases)

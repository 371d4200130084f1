/* Options and shutdown halves of unix socket pairs. */
#include "selfcheck_fds.h"
#include <sys/socket.h>
#include <sys/time.h>

static int option(int fd, int name)
{
	socklen_t len = sizeof(int);
	int value = -1;

	check_ok("getsockopt", getsockopt(fd, SOL_SOCKET, name, &value, &len));
	return value;
}

static void check_peer(int fd)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);

	check_ok("SO_PEERCRED", getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len));
	check_int("pid of the peer", getpid(), peer.pid);
	check_int("uid of the peer", 0, peer.uid);
}

int main(int argc, char **argv)
{
	struct timeval receive = { 1, 250000 }, send_limit = { 2, 0 }, got = { 0 };
	int set[2], half[2], half_b[2], on = 1, size = 70000, sndbuf, rcvbuf;
	struct linger linger = { 1, 7 }, linger_got = { 0 };
	socklen_t len = sizeof(got);

	selfcheck_begin(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, set) && !socketpair(AF_UNIX, SOCK_STREAM, 0, half) &&
		!socketpair(AF_UNIX, SOCK_STREAM, 0, half_b));
	REQUIRE(!setsockopt(set[0], SOL_SOCKET, SO_RCVTIMEO, &receive, sizeof(receive)) &&
		!setsockopt(set[0], SOL_SOCKET, SO_SNDTIMEO, &send_limit, sizeof(send_limit)) &&
		!setsockopt(set[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) &&
		!setsockopt(set[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size)) &&
		!setsockopt(set[0], SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)) &&
		!setsockopt(set[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) &&
		!setsockopt(set[1], SOL_SOCKET, SO_PRIORITY, &(int){ 4 }, sizeof(int)));
	sndbuf = option(set[0], SO_SNDBUF);
	rcvbuf = option(set[0], SO_RCVBUF);
	put(half[0], "said before");
	REQUIRE(!shutdown(half[0], SHUT_WR) && !shutdown(half_b[0], SHUT_RD));
	selfcheck_park();
	check_ok("SO_RCVTIMEO", getsockopt(set[0], SOL_SOCKET, SO_RCVTIMEO, &got, &len));
	check_int("receive timeout s", 1, got.tv_sec);
	check_int("receive timeout us", 250000, (got.tv_usec + 4000) / 10000 * 10000);
	check_ok("SO_SNDTIMEO", getsockopt(set[0], SOL_SOCKET, SO_SNDTIMEO, &got, &len));
	check_int("send timeout s", 2, got.tv_sec);
	check_int("SO_PASSCRED", 1, option(set[0], SO_PASSCRED));
	check_int("SO_PASSCRED of the other end", 0, option(set[1], SO_PASSCRED));
	check_int("SO_SNDBUF", sndbuf, option(set[0], SO_SNDBUF));
	check_int("SO_RCVBUF", rcvbuf, option(set[0], SO_RCVBUF));
	len = sizeof(linger_got);
	check_ok("SO_LINGER", getsockopt(set[0], SOL_SOCKET, SO_LINGER, &linger_got, &len));
	check_int("linger", 7, linger_got.l_onoff ? linger_got.l_linger : -1);
	check_int("SO_PRIORITY", 4, option(set[1], SO_PRIORITY));
	check_peer(set[0]);
	check_peer(set[1]);
	expect_read("data before the shutdown", half[1], "said before");
	expect_read("end of file behind it", half[1], "");
	check_errno("write after SHUT_WR", EPIPE, write(half[0], "x", 1));
	check_int("the other way is open", 3, write(half[1], "yes", 3));
	expect_read("other way", half[0], "yes");
	expect_read("read after SHUT_RD", half_b[0], "");
	check_errno("write to it", EPIPE, write(half_b[1], "x", 1));
	return selfcheck_end();
}

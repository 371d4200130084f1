/* Connected unix socket pairs of the three types, with data queued both ways. */
#include "selfcheck_fds.h"
#include <sys/ioctl.h>
#include <sys/socket.h>

static void check_type(int type, int pair[2])
{
	socklen_t len = sizeof(int);
	int got = 0;

	check_int("getsockopt(SO_TYPE)", 0, getsockopt(pair[0], SOL_SOCKET, SO_TYPE, &got, &len));
	check_int("type", type, got);
}

static void check_boundaries(const char *what, int pair[2])
{
	expect_read(what, pair[1], "first");
	expect_read(what, pair[1], "second message");
	expect_again(what, pair[1]);
	expect_read(what, pair[0], "backward");
	expect_again(what, pair[0]);
	check_int(what, 5, send(pair[0], "after", 5, 0));
	expect_read(what, pair[1], "after");
	check_int(what, 4, send(pair[1], "echo", 4, 0));
	expect_read(what, pair[0], "echo");
}

int main(int argc, char **argv)
{
	int stream[2], dgram[2], packet[2], idle[2], queued = 0;
	char *block, *got;

	selfcheck_begin(argc, argv);
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, stream) &&
		!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, dgram) &&
		!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, packet) &&
		!socketpair(AF_UNIX, SOCK_STREAM, 0, idle));
	block = malloc(100000);
	got = calloc(1, 200000);
	for (int i = 0; i < 100000; i++)
		block[i] = (char)(i * 13 >> 2);
	REQUIRE(send(stream[0], block, 100000, 0) == 100000);
	put(stream[1], "backward");
	for (int i = 0; i < 2; i++) {
		int *pair = i ? packet : dgram;

		put(pair[0], "first");
		put(pair[0], "second message");
		put(pair[1], "backward");
	}
	selfcheck_park();
	check_type(SOCK_STREAM, stream);
	check_type(SOCK_DGRAM, dgram);
	check_type(SOCK_SEQPACKET, packet);
	ioctl(stream[1], FIONREAD, &queued);
	check_int("bytes queued in the stream", 100000, queued);
	check_int("read of the stream", 100000, recv(stream[1], got, 200000, MSG_WAITALL));
	check_mem("stream", block, got, 100000);
	expect_again("stream", stream[1]);
	expect_read("stream backward", stream[0], "backward");
	check_boundaries("dgram", dgram);
	check_boundaries("seqpacket", packet);
	check_int("FD_CLOEXEC", FD_CLOEXEC, fcntl(packet[1], F_GETFD));
	check_int("O_NONBLOCK", O_NONBLOCK, fcntl(stream[0], F_GETFL) & O_NONBLOCK);
	check_int("blocking one", 0, fcntl(idle[0], F_GETFL) & O_NONBLOCK);
	close(idle[0]);
	expect_read("end of file after the peer closed", idle[1], "");
	return selfcheck_end();
}

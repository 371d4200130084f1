/* Descriptors in flight: sent over a socket pair, not yet received. */
#include "selfcheck_fds.h"
#include <sys/eventfd.h>
#include <sys/socket.h>

int main(int argc, char **argv)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	char byte = 'f';
	struct iovec iov = { &byte, 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room,
				  .msg_controllen = sizeof(control.room) };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	int pair[2], sent = eventfd(31, EFD_NONBLOCK), got = -1;
	eventfd_t value = 0;

	selfcheck_begin(argc, argv);
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &sent, sizeof(int));
	REQUIRE(sendmsg(pair[0], &message, 0) == 1);
	close(sent);
	selfcheck_park();
	memset(&control, 0, sizeof(control));
	check_int("recvmsg", 1, recvmsg(pair[1], &message, MSG_DONTWAIT));
	head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_type != SCM_RIGHTS) {
		fail("ancillary data: expected a descriptor got none");
		return selfcheck_end();
	}
	memcpy(&got, CMSG_DATA(head), sizeof(int));
	check_int("read of the eventfd", 0, eventfd_read(got, &value));
	check_int("its counter", 31, (long)value);
	return selfcheck_end();
}

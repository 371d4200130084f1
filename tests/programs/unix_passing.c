/* A stream pair that carries credentials with its data (SO_PASSCRED, data queued before). */
#include "selfcheck_fds.h"
#include <sys/socket.h>

int main(int argc, char **argv)
{
	union {
		char room[CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} control;
	char byte[8] = "";
	struct iovec iov = { byte, sizeof(byte) };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.room,
				  .msg_controllen = sizeof(control.room) };
	struct cmsghdr *head;
	int pair[2], on = 1;

	selfcheck_begin(argc, argv);
	REQUIRE(!socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
	REQUIRE(!setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
	put(pair[0], "hi");
	selfcheck_park();
	check_int("recvmsg", 2, recvmsg(pair[1], &message, MSG_DONTWAIT));
	check_mem("data", "hi", byte, 2);
	head = CMSG_FIRSTHDR(&message);
	if (!head || head->cmsg_type != SCM_CREDENTIALS) {
		fail("ancillary data: expected credentials got none");
	} else {
		struct ucred *who = (struct ucred *)CMSG_DATA(head);

		check_int("pid of the sender", getpid(), who->pid);
		check_int("uid of the sender", 0, (int)who->uid);
	}
	return selfcheck_end();
}

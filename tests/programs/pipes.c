/* Pipes with both ends inside: data, capacity, full ones, ends closed, nonblocking, own flags. */
#include "selfcheck_fds.h"
#include <sys/ioctl.h>

#define CAPACITY (1 << 16)

int main(int argc, char **argv)
{
	int data[2], empty[2], full[2], big[2], no_writer[2], no_reader[2], mixed[2];
	char *block, *got;
	ssize_t fill;
	int queued = 0;

	selfcheck_begin(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	REQUIRE(!pipe(data) && !pipe2(empty, O_NONBLOCK) && !pipe2(full, O_NONBLOCK) &&
		!pipe2(big, O_CLOEXEC) && !pipe(no_writer) && !pipe(no_reader) && !pipe(mixed));
	put(data[1], "first ");
	put(data[1], "second");
	block = malloc(1 << 20);
	got = calloc(1, 1 << 20);
	for (int i = 0; i < 1 << 20; i++)
		block[i] = (char)(i * 31 >> 3);
	fill = write(full[1], block, 1 << 20);
	REQUIRE(fill == CAPACITY);
	REQUIRE(fcntl(big[1], F_SETPIPE_SZ, 1 << 20) == 1 << 20);
	REQUIRE(write(big[1], block, 300000) == 300000);
	put(no_writer[1], "last words");
	close(no_writer[1]);
	close(no_reader[0]);
	REQUIRE(!fcntl(mixed[0], F_SETFL, O_NONBLOCK));
	selfcheck_park();
	ioctl(data[0], FIONREAD, &queued);
	check_int("bytes queued", 12, queued);
	expect_read("both writes", data[0], "first second");
	check_int("write and read again", 4, write(data[1], "more", 4));
	expect_read("more", data[0], "more");
	expect_again("empty pipe", empty[0]);
	check_errno("write to a full pipe", EAGAIN, write(full[1], "x", 1));
	check_int("full pipe read", CAPACITY, read(full[0], got, 1 << 20));
	check_mem("full pipe", block, got, CAPACITY);
	check_int("room again", CAPACITY, write(full[1], block, CAPACITY));
	check_int("capacity", 1 << 20, fcntl(big[0], F_GETPIPE_SZ));
	check_int("default capacity", CAPACITY, fcntl(data[0], F_GETPIPE_SZ));
	check_int("big pipe read", 300000, read(big[0], got, 1 << 20));
	check_mem("big pipe", block, got, 300000);
	check_int("FD_CLOEXEC", FD_CLOEXEC, fcntl(big[1], F_GETFD));
	expect_read("pipe without writer", no_writer[0], "last words");
	expect_read("then end of file", no_writer[0], "");
	check_errno("pipe without reader", EPIPE, write(no_reader[1], "x", 1));
	check_int("flags of one end", O_NONBLOCK, fcntl(mixed[0], F_GETFL));
	check_int("flags of the other end", O_WRONLY, fcntl(mixed[1], F_GETFL));
	return selfcheck_end();
}

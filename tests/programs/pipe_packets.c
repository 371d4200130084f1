/* A pipe in packet mode (O_DIRECT): the borders between packets stay; a FIFO by name. */
#include "selfcheck_fds.h"

int main(int argc, char **argv)
{
	int packets[2], reader, writer, both, late;
	char path[600];

	selfcheck_begin(argc, argv);
	REQUIRE(!pipe2(packets, O_DIRECT | O_NONBLOCK));
	put(packets[1], "one");
	put(packets[1], "twotwo");
	put(packets[1], "3");
	selfcheck_path(path, sizeof(path), "fifo");
	REQUIRE(!mkfifo(path, 0600));
	reader = open(path, O_RDONLY | O_NONBLOCK);
	writer = open(path, O_WRONLY);
	both = open(path, O_RDWR | O_NONBLOCK);
	REQUIRE(reader >= 0 && writer >= 0 && both >= 0);
	put(writer, "through the fifo");
	selfcheck_park();
	expect_read("first packet", packets[0], "one");
	expect_read("second packet", packets[0], "twotwo");
	check_int("packet mode", O_DIRECT, fcntl(packets[1], F_GETFL) & O_DIRECT);
	check_int("new packets", 2, write(packets[1], "44", 2));
	expect_read("third packet", packets[0], "3");
	expect_read("fourth packet", packets[0], "44");
	expect_again("no fifth", packets[0]);
	expect_read("fifo", reader, "through the fifo");
	late = open(path, O_WRONLY | O_NONBLOCK);
	check_ok("opening the fifo by name", late);
	check_int("write by name", 4, write(late, "late", 4));
	expect_read("fifo by name", both, "late");
	check_int("flags of the reader", O_NONBLOCK, fcntl(reader, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	check_int("flags of the writer", O_WRONLY, fcntl(writer, F_GETFL) & (O_ACCMODE | O_NONBLOCK));
	return selfcheck_end();
}

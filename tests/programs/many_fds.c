/* Seven hundred descriptors: more than one message of SCM_RIGHTS can carry. */
#include "selfcheck_fds.h"
#include <sys/eventfd.h>

#define COUNT 700

int main(int argc, char **argv)
{
	int files[COUNT];

	selfcheck_begin(argc, argv);
	files[0] = open_in_dir("many", O_CREAT | O_RDWR);
	put(files[0], "0123456789");
	for (int i = 1; i < COUNT; i++) {
		files[i] = i % 7 ? open_in_dir("many", O_RDONLY) : eventfd((unsigned)i, EFD_NONBLOCK);
		REQUIRE(files[i] >= 0);
		if (i % 7)
			REQUIRE(lseek(files[i], i, SEEK_SET) == i);
	}
	selfcheck_park();
	for (int i = 1; i < COUNT; i++) {
		eventfd_t value = 0;

		if (i % 7) {
			check_int("position", i, lseek(files[i], 0, SEEK_CUR));
		} else {
			check_int("read of an eventfd", 0, eventfd_read(files[i], &value));
			check_int("its counter", i, (long)value);
		}
	}
	return selfcheck_end();
}

/* A memfd mapped twice, sealed, with a descriptor; another one whose descriptor is closed. */
#include "selfcheck_proc.h"

#define PAGE 4096

int main(int argc, char **argv)
{
	unsigned char *one, *two, *orphan, *private, byte = 0;
	char text[256], path[64];
	struct stat st;
	int fd, closed;

	selfcheck_begin(argc, argv);
	fd = memfd_create("a memfd", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	closed = memfd_create("closed", 0);
	REQUIRE(fd >= 0 && closed >= 0 && !ftruncate(fd, 8 * PAGE) && !ftruncate(closed, 2 * PAGE));
	one = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	two = mmap(0, 4 * PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
	private = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	orphan = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, closed, 0);
	REQUIRE(one != MAP_FAILED && two != MAP_FAILED && private != MAP_FAILED && orphan != MAP_FAILED);
	memset(one, 'm', 4 * PAGE);
	private[1] = 'p';
	orphan[0] = 'o';
	close(closed);
	REQUIRE(pwrite(fd, "tail", 4, 7 * PAGE) == 4);
	REQUIRE(lseek(fd, 1234, SEEK_SET) == 1234);
	REQUIRE(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL));
	selfcheck_park();
	check_int("seals", F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, fcntl(fd, F_GET_SEALS));
	check_int("position", 1234, lseek(fd, 0, SEEK_CUR));
	check_int("FD_CLOEXEC", FD_CLOEXEC, fcntl(fd, F_GETFD));
	fstat(fd, &st);
	check_int("size", 8 * PAGE, st.st_size);
	check_int("read of the tail", 1, pread(fd, &byte, 1, 7 * PAGE + 1));
	check_int("byte of the tail", 'a', byte);
	check_fill("first mapping", 'm', one, 4 * PAGE);
	one[PAGE + 9] = 'n';
	check_int("second mapping sees the write", 'n', two[9]);
	check_int("read sees the write", 1, pread(fd, &byte, 1, PAGE + 9));
	check_int("its byte", 'n', byte);
	check_int("private copy", 'p', private[1]);
	check_int("private original", 'm', private[2]);
	check_int("mapping without descriptor", 'o', orphan[0]);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	text[readlink(path, text, sizeof(text) - 1)] = 0;
	check_str("link", "/memfd:a memfd (deleted)", text);
	return selfcheck_end();
}

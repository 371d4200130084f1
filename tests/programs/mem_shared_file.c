/* Shared file mappings: writes reach the file, two views agree, a deleted file lives on. */
#include "selfcheck_proc.h"

#define PAGE 4096

static unsigned char *map(int fd, int prot, off_t offset)
{
	void *p = mmap(0, 2 * PAGE, prot, MAP_SHARED, fd, offset);

	REQUIRE(p != MAP_FAILED);
	return p;
}

int main(int argc, char **argv)
{
	unsigned char *one, *two, *read_only, *gone_a, *gone_b, byte = 0;
	char path[600], deleted[600];
	int fd;

	selfcheck_begin(argc, argv);
	selfcheck_path(path, sizeof(path), "shared file");
	fd = open(path, O_RDWR | O_CREAT, 0644);
	REQUIRE(fd >= 0 && !ftruncate(fd, 8 * PAGE));
	one = map(fd, PROT_READ | PROT_WRITE, 0);
	two = map(fd, PROT_READ | PROT_WRITE, PAGE);
	read_only = map(fd, PROT_READ, 0);
	close(fd);
	selfcheck_path(deleted, sizeof(deleted), "deleted file");
	fd = open(deleted, O_RDWR | O_CREAT, 0644);
	REQUIRE(fd >= 0 && !ftruncate(fd, 8 * PAGE));
	gone_a = map(fd, PROT_READ | PROT_WRITE, 0);
	gone_b = map(fd, PROT_READ | PROT_WRITE, PAGE);
	close(fd);
	REQUIRE(!unlink(deleted));
	memset(one, 'q', 2 * PAGE);
	memset(gone_a, 'g', 2 * PAGE);
	selfcheck_park();
	check_fill("first view", 'q', one, 2 * PAGE);
	one[PAGE + 5] = 'r';
	check_int("second view sees it", 'r', two[5]);
	check_int("read-only view sees it", 'r', read_only[PAGE + 5]);
	fd = open(path, O_RDONLY);
	check_int("pread", 1, pread(fd, &byte, 1, PAGE + 5));
	check_int("the file has it", 'r', byte);
	close(fd);
	check_int("shared flag", 1, vma_has_flag(one, "sh"));
	check_errno("read-only view stays read-only of an O_RDWR file", 0,
		    mprotect(read_only, PAGE, PROT_READ | PROT_WRITE) ? 0 : (errno = 0, -1));
	check_fill("deleted file", 'g', gone_a, 2 * PAGE);
	gone_a[PAGE] = 'h';
	check_int("second view of the deleted file", 'h', gone_b[0]);
	check_errno("the deleted file has no name", ENOENT, access(deleted, F_OK));
	return selfcheck_end();
}

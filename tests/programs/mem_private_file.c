/* Private file mappings: untouched, modified, read-only with modified pages, past the end of file. */
#include "selfcheck_proc.h"
#include <setjmp.h>

#define PAGE 4096

static sigjmp_buf faulted;

static void on_bus(int sig)
{
	(void)sig;
	siglongjmp(faulted, 1);
}

static int read_faults(volatile unsigned char *p)
{
	if (sigsetjmp(faulted, 1))
		return 1;
	(void)*p;
	return 0;
}

int main(int argc, char **argv)
{
	unsigned char *plain, *modified, *sealed, page[PAGE];
	char path[600], got[5], text[8192];
	int fd;

	selfcheck_begin(argc, argv);
	signal(SIGBUS, on_bus);
	selfcheck_path(path, sizeof(path), "mapped file");
	fd = open(path, O_RDWR | O_CREAT, 0644);
	for (int i = 0; i < 10; i++) {
		memset(page, 'a' + i, PAGE);
		REQUIRE(write(fd, page, PAGE) == PAGE);
	}
	REQUIRE(!ftruncate(fd, 9 * PAGE + 100));
	plain = mmap(0, 12 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
	modified = mmap(0, 6 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 2 * PAGE);
	sealed = mmap(0, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	REQUIRE(plain != MAP_FAILED && modified != MAP_FAILED && sealed != MAP_FAILED);
	close(fd);
	memset(modified + PAGE, 'X', PAGE);
	modified[5 * PAGE + 1] = 'Y';
	sealed[3] = 'Z';
	REQUIRE(!mprotect(sealed, 2 * PAGE, PROT_NONE));
	selfcheck_park();
	for (int i = 0; i < 9; i++)
		check_fill("plain page", 'a' + i, plain + i * PAGE, PAGE);
	check_fill("last part of the file", 'j', plain + 9 * PAGE, 100);
	check_fill("rest of the last page", 0, plain + 9 * PAGE + 100, PAGE - 100);
	check_int("past the end faults", 1, read_faults(plain + 11 * PAGE));
	check_fill("unmodified page", 'c', modified, PAGE);
	check_fill("modified page", 'X', modified + PAGE, PAGE);
	check_int("modified byte", 'Y', modified[5 * PAGE + 1]);
	check_int("its neighbour", 'h', modified[5 * PAGE + 2]);
	vma_perms(sealed, got);
	check_str("protection", "---p", got);
	mprotect(sealed, 2 * PAGE, PROT_READ);
	check_int("modified byte behind PROT_NONE", 'Z', sealed[3]);
	check_int("DONTNEED", 0, madvise(modified, 6 * PAGE, MADV_DONTNEED));
	check_fill("file content after DONTNEED", 'd', modified + PAGE, PAGE);
	proc_smaps(modified, text, sizeof(text));
	check_int("maps names the file", 1, strstr(text, "/mapped file\n") != 0);
	check_int("maps shows the offset", 1, strstr(text, " 00002000 ") != 0);
	return selfcheck_end();
}

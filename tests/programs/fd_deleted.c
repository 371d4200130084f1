/* Deleted files: their content and position, a hole, and one that lives on under another name. */
#include "selfcheck_fds.h"

int main(int argc, char **argv)
{
	char a[600], b[600], byte = 1;
	int gone, linked, empty, other, sparse;
	struct stat st;

	selfcheck_begin(argc, argv);
	gone = open_in_dir("gone", O_CREAT | O_RDWR);
	put(gone, "content of a deleted file");
	REQUIRE(lseek(gone, 8, SEEK_SET) == 8);
	selfcheck_path(a, sizeof(a), "gone");
	REQUIRE(!unlink(a));
	empty = open_in_dir("empty", O_CREAT | O_WRONLY | O_APPEND);
	selfcheck_path(a, sizeof(a), "empty");
	REQUIRE(!unlink(a));
	sparse = open_in_dir("sparse", O_CREAT | O_RDWR);
	REQUIRE(pwrite(sparse, "far", 3, 100 << 20) == 3);
	selfcheck_path(a, sizeof(a), "sparse");
	REQUIRE(!unlink(a));
	linked = open_in_dir("first name", O_CREAT | O_RDWR);
	put(linked, "linked elsewhere");
	selfcheck_path(a, sizeof(a), "first name");
	selfcheck_path(b, sizeof(b), "second name");
	REQUIRE(!link(a, b) && !unlink(a));
	selfcheck_park();
	expect_read("deleted file", gone, "of a deleted file");
	check_int("write", 5, pwrite(gone, "fresh", 5, 0));
	fstat(gone, &st);
	check_int("links of the deleted file", 0, (long)st.st_nlink);
	check_int("size of the deleted file", 25, st.st_size);
	check_int("flags of the empty one", O_WRONLY | O_APPEND, fcntl(empty, F_GETFL) & (O_ACCMODE | O_APPEND));
	fstat(empty, &st);
	check_int("size of the empty one", 0, st.st_size);
	fstat(sparse, &st);
	check_int("size of the sparse one", (100 << 20) + 3, st.st_size);
	if (st.st_blocks > 2048)
		fail("blocks of the sparse one: expected a few got %ld", (long)st.st_blocks);
	check_int("byte of the hole", 1, pread(sparse, &byte, 1, 4096));
	check_int("hole reads as", 0, byte);
	check_int("byte after the hole", 1, pread(sparse, &byte, 1, (100 << 20) + 1));
	check_int("after the hole", 'a', byte);
	check_int("write to the linked one", 6, pwrite(linked, "LINKED", 6, 0));
	other = open(b, O_RDONLY);
	expect_read("its second name shows it", other, "LINKED elsewhere");
	fstat(linked, &st);
	check_int("links of the linked one", 1, (long)st.st_nlink);
	check_errno("the first name stays away", ENOENT, (selfcheck_path(a, sizeof(a), "first name"), access(a, F_OK)));
	return selfcheck_end();
}

/* The working folder: an ordinary one, or (argument "deleted") one that is gone. */
#include "selfcheck.h"

int main(int argc, char **argv)
{
	char path[600], got[600];
	struct stat before, after;
	int deleted;

	selfcheck_begin(argc, argv);
	deleted = argc > 2 && !strcmp(argv[2], "deleted");
	selfcheck_path(path, sizeof(path), "a folder");
	REQUIRE(!mkdir(path, 0755) && !chdir(path));
	if (deleted)
		REQUIRE(!rmdir(path));
	REQUIRE(!stat(".", &before));
	selfcheck_park();
	check_int("stat(.)", 0, stat(".", &after));
	if (deleted) {
		check_int("links of a deleted folder", 0, (long)after.st_nlink);
		check_errno("getcwd", ENOENT, syscall(SYS_getcwd, got, sizeof(got)));
	} else {
		check_int("inode", (long)before.st_ino, (long)after.st_ino);
		check_str("getcwd", path, getcwd(got, sizeof(got)) ? got : "(none)");
	}
	return selfcheck_end();
}

/* Folders: the getdents position in the middle, O_PATH of a folder, openat relative to it. */
#include "selfcheck_fds.h"
#include <dirent.h>

int main(int argc, char **argv)
{
	char path[600], name[16], seen[60] = { 0 };
	struct dirent *entry;
	int file, plain, opath;
	struct stat a, b;
	DIR *dir;

	selfcheck_begin(argc, argv);
	selfcheck_path(path, sizeof(path), "folder");
	REQUIRE(!mkdir(path, 0755));
	plain = open(path, O_RDONLY | O_DIRECTORY);
	opath = open(path, O_PATH | O_DIRECTORY);
	for (int i = 0; i < 60; i++) {
		snprintf(name, sizeof(name), "%d", i);
		file = openat(plain, name, O_CREAT | O_WRONLY, 0644);
		REQUIRE(file >= 0 && !close(file));
	}
	dir = opendir(path);
	/* a small buffer, so that the kernel's position is in the middle */
	for (int i = 0; i < 4; i++) {
		char small[200];
		long n = syscall(SYS_getdents64, dirfd(dir), small, sizeof(small));

		for (long at = 0; at < n; at += ((struct dirent *)(void *)(small + at))->d_reclen) {
			struct dirent *d = (void *)(small + at);

			if (d->d_name[0] != '.')
				seen[atoi(d->d_name)] = 1;
		}
	}
	REQUIRE(!fstat(plain, &a));
	selfcheck_park();
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			seen[atoi(entry->d_name)]++;
	for (int i = 0; i < 60; i++)
		check_int("times that the name was listed", 1, seen[i]);
	file = openat(plain, "7", O_RDONLY);
	check_ok("openat", file);
	file = openat(opath, "8", O_RDONLY);
	check_ok("openat by O_PATH", file);
	fstat(opath, &b);
	check_int("inode", (long)a.st_ino, (long)b.st_ino);
	check_int("O_PATH", O_PATH, fcntl(opath, F_GETFL) & O_PATH);
	check_errno("getdents by O_PATH", EBADF, syscall(SYS_getdents64, opath, name, sizeof(name)));
	return selfcheck_end();
}

/* A root folder of its own. */
#include "selfcheck.h"

int main(int argc, char **argv)
{
	struct stat root, other;
	char path[600];

	selfcheck_begin(argc, argv);
	REQUIRE(!chroot(selfcheck_dir) && !chdir("/"));
	REQUIRE(!mkdir("/inner", 0755) && !chdir("/inner"));
	REQUIRE(!stat("/", &root));
	selfcheck_dir[0] = 0; /* from here on DIR is "/" */
	selfcheck_park();
	check_int("stat(/)", 0, stat("/", &other));
	check_int("inode of /", (long)root.st_ino, (long)other.st_ino);
	check_str("getcwd", "/inner", getcwd(path, sizeof(path)) ? path : "(none)");
	check_int("/proc is not visible", -1, access("/proc", F_OK));
	return selfcheck_end();
}

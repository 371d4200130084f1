/* A process whose executable was deleted after it started. */
#include "selfcheck.h"
#include <sys/sendfile.h>

static int answer(void)
{
	return 42;
}

int main(int argc, char **argv)
{
	char path[600], link[700] = "";
	int in, out;

	selfcheck_begin(argc, argv);
	selfcheck_path(path, sizeof(path), "own executable");
	if (argc < 3) {
		in = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
		out = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0755);
		while (sendfile(out, in, 0, 1 << 20) > 0)
			;
		close(out);
		execl(path, path, argv[1], "copy", (char *)0);
		REQUIRE(!"execl");
	}
	REQUIRE(!unlink(path));
	selfcheck_park();
	check_int("code still runs", 42, ((volatile __typeof__(&answer)){ answer })());
	check_ok("readlink", readlink("/proc/self/exe", link, sizeof(link) - 1));
	check_int("exe link says deleted", 1, strstr(link, " (deleted)") != 0);
	return selfcheck_end();
}

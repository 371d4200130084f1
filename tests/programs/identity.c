/* umask, comm, exe link, argv and environment rewritten in place, auxv, cmdline moved by prctl. */
#include "selfcheck_proc.h"
#include <sys/auxv.h>

static void remember(char *out, size_t size, const char *path)
{
	ssize_t n = proc_read(path, out, size);

	for (ssize_t i = 0; i < n; i++)
		if (!out[i])
			out[i] = '|';
}

/* The mm fields as they are, except for the arguments (include/uapi/linux/prctl.h). */
static void move_arguments(char *start, size_t len)
{
	struct prctl_mm_map map = { 0 };
	char text[4096], *field;
	uint64_t values[53];

	proc_read("/proc/self/stat", text, sizeof(text));
	field = strrchr(text, ')') + 2;
	for (int i = 3; i < 53; i++) {
		values[i] = strtoull(field, 0, 10);
		field = strchr(field, ' ') ? strchr(field, ' ') + 1 : "0";
	}
	map.start_code = values[26];
	map.end_code = values[27];
	map.start_stack = values[28];
	map.start_data = values[45];
	map.end_data = values[46];
	map.start_brk = values[47];
	map.brk = (uint64_t)sbrk(0);
	map.arg_start = (uint64_t)start;
	map.arg_end = (uint64_t)start + len;
	map.env_start = values[50];
	map.env_end = values[51];
	map.exe_fd = (uint32_t)-1;
	REQUIRE(!prctl(PR_SET_MM, PR_SET_MM_MAP, &map, sizeof(map), 0));
}

int main(int argc, char **argv)
{
	char exe[512] = "", got[4096], cmdline[4096], environ_text[4096];
	static char auxv[1024], auxv_now[1024];
	unsigned long entry;
	char *moved;

	selfcheck_begin(argc, argv);
	umask(0153);
	REQUIRE(!prctl(PR_SET_NAME, "ident )(x"));
	memset(argv[1], 'x', strlen(argv[1]) / 2); /* selfcheck_dir is a copy */
	if (argc > 2) {
		moved = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		REQUIRE(moved != MAP_FAILED);
		memcpy(moved, "moved\0command\0line", 19);
		move_arguments(moved, 19);
	}
	remember(cmdline, sizeof(cmdline), "/proc/self/cmdline");
	remember(environ_text, sizeof(environ_text), "/proc/self/environ");
	proc_read("/proc/self/auxv", auxv, sizeof(auxv));
	entry = getauxval(AT_ENTRY);
	REQUIRE(readlink("/proc/self/exe", exe, sizeof(exe) - 1) > 0);
	selfcheck_park();
	check_int("umask", 0153, umask(0));
	prctl(PR_GET_NAME, got);
	check_str("comm", "ident )(x", got);
	memset(got, 0, sizeof(got));
	check_ok("readlink(exe)", readlink("/proc/self/exe", got, sizeof(got) - 1));
	check_str("exe", exe, got);
	remember(got, sizeof(got), "/proc/self/cmdline");
	check_str("cmdline", cmdline, got);
	remember(got, sizeof(got), "/proc/self/environ");
	check_str("environ", environ_text, got);
	proc_read("/proc/self/auxv", auxv_now, sizeof(auxv_now));
	check_mem("auxv", auxv, auxv_now, sizeof(auxv));
	check_int("AT_ENTRY", (long)entry, (long)getauxval(AT_ENTRY));
	return selfcheck_end();
}

/* Small helpers of the programs about descriptors. */
#ifndef SELFCHECK_FDS_H
#define SELFCHECK_FDS_H

#include "selfcheck_proc.h"

/* Opens DIR/name; the program cannot do without it. */
static UNUSED int open_in_dir(const char *name, int flags)
{
	char path[600];
	int fd;

	selfcheck_path(path, sizeof(path), name);
	fd = open(path, flags, 0644);
	REQUIRE(fd >= 0);
	return fd;
}

static UNUSED void put(int fd, const char *text)
{
	REQUIRE(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* One read gives exactly this text. */
static UNUSED void expect_read(const char *what, int fd, const char *expected)
{
	char got[4096];
	ssize_t n = read(fd, got, sizeof(got) - 1);

	if (n < 0) {
		fail("%s: expected \"%.100s\" got %s", what, expected, strerror(errno));
		return;
	}
	got[n] = 0;
	check_str(what, expected, got);
}

static UNUSED void expect_again(const char *what, int fd)
{
	char byte;

	check_errno(what, EAGAIN, read(fd, &byte, 1));
}

#endif

/* File locks: POSIX ranges, OFD and flock; another process still finds them held. */
#include "selfcheck_fds.h"
#include <sys/file.h>
#include <sys/wait.h>

#ifndef F_OFD_SETLK
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#endif

static void set_lock(int fd, int command, int type, off_t start, off_t len)
{
	struct flock lock = { .l_type = (short)type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };

	REQUIRE(!fcntl(fd, command, &lock));
}

/* Asked by a child, which holds no lock: the type, start and length of the lock in the way. */
static long conflict(const char *name, off_t start)
{
	pid_t child = fork();
	int status = 0;

	if (!child) {
		struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = start, .l_len = 1 };
		int fd = open_in_dir(name, O_RDWR);

		fcntl(fd, F_GETLK, &lock);
		_exit(lock.l_type == F_UNLCK ? 99 : lock.l_type * 50 + (int)lock.l_start);
	}
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
	int posix, ofd, whole, shared, other, twin;

	selfcheck_begin(argc, argv);
	posix = open_in_dir("posix", O_CREAT | O_RDWR);
	set_lock(posix, F_SETLK, F_WRLCK, 10, 5);
	set_lock(posix, F_SETLK, F_RDLCK, 20, 0);
	ofd = open_in_dir("ofd", O_CREAT | O_RDWR);
	set_lock(ofd, F_OFD_SETLK, F_WRLCK, 3, 4);
	whole = open_in_dir("flock", O_CREAT | O_RDWR);
	twin = dup(whole);
	REQUIRE(!flock(whole, LOCK_EX));
	shared = open_in_dir("shared", O_CREAT | O_RDONLY);
	REQUIRE(!flock(shared, LOCK_SH));
	selfcheck_park();
	check_int("no lock at 0", 99, conflict("posix", 0));
	check_int("write lock at 12", F_WRLCK * 50 + 10, conflict("posix", 12));
	check_int("read lock at 100", F_RDLCK * 50 + 20, conflict("posix", 100));
	check_int("no lock at 15", 99, conflict("posix", 15));
	check_int("OFD lock at 5", F_WRLCK * 50 + 3, conflict("ofd", 5));
	other = open_in_dir("flock", O_RDWR);
	check_errno("second flock", EWOULDBLOCK, flock(other, LOCK_EX | LOCK_NB));
	check_int("unlocked by the dup'ed descriptor", 0, flock(twin, LOCK_UN));
	check_int("then it is free", 0, flock(other, LOCK_EX | LOCK_NB));
	other = open_in_dir("shared", O_RDONLY);
	check_errno("exclusive beside shared", EWOULDBLOCK, flock(other, LOCK_EX | LOCK_NB));
	check_int("shared beside shared", 0, flock(other, LOCK_SH | LOCK_NB));
	check_int("closing releases", 0, close(ofd));
	check_int("no OFD lock any more", 99, conflict("ofd", 5));
	return selfcheck_end();
}

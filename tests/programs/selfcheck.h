/*
 * Protocol between a self-checking target and the harness (tests/live/harness.py).
 *
 * argv[1] is a directory.  The target builds its state, publishes DIR/ready,
 * polls for DIR/go, checks its own state and publishes DIR/result: "PASS", or
 * one "FAIL: what: expected X got Y" a line, or "SKIP: cpu|kernel FEATURE", or
 * "SETUP: ..." when the state could not be built at all.  DIR/go holds the mode
 * ("left_running", "restored", "verified", "untouched").
 *
 * No descriptor is held while waiting, so the standard streams and the fd table
 * can be anything.
 */
#ifndef SELFCHECK_H
#define SELFCHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

static char selfcheck_dir[512];
static char selfcheck_mode[32];
static char selfcheck_log[32768];
static size_t selfcheck_used;
static pthread_mutex_t selfcheck_lock = PTHREAD_MUTEX_INITIALIZER;

static void selfcheck_path(char *out, size_t size, const char *name)
{
	snprintf(out, size, "%s/%s", selfcheck_dir, name);
}

/* Appears under its name whole or not at all: the harness polls for it. */
static void selfcheck_publish(const char *name, const char *text)
{
	char tmp[600], path[600];
	size_t done = 0, len = strlen(text);
	int fd;

	snprintf(tmp, sizeof(tmp), "%s/%s.tmp", selfcheck_dir, name);
	selfcheck_path(path, sizeof(path), name);
	fd = open(tmp, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0666);
	if (fd < 0)
		_exit(3);
	while (done < len) {
		ssize_t n = write(fd, text + done, len - done);

		if (n < 0)
			_exit(3);
		done += (size_t)n;
	}
	close(fd);
	if (rename(tmp, path))
		_exit(3);
}

static void __attribute__((noreturn, unused)) selfcheck_exit(const char *text, int code)
{
	selfcheck_publish("result", text);
	_exit(code);
}

static void __attribute__((noreturn, unused)) selfcheck_setup_failed(const char *what, int line)
{
	char text[512];

	snprintf(text, sizeof(text), "SETUP: line %d: %s: %s\n", line, what, strerror(errno));
	selfcheck_exit(text, 2);
}

/* A step of building the state; failing here is not the tool's doing. */
#define REQUIRE(cond)                                                                              \
	do {                                                                                       \
		if (!(cond))                                                                       \
			selfcheck_setup_failed(#cond, __LINE__);                                   \
	} while (0)

static void __attribute__((noreturn, unused)) skip_cpu(const char *feature)
{
	char text[128];

	snprintf(text, sizeof(text), "SKIP: cpu %s\n", feature);
	selfcheck_exit(text, 0);
}

static void __attribute__((noreturn, unused)) skip_kernel(const char *feature)
{
	char text[128];

	snprintf(text, sizeof(text), "SKIP: kernel %s\n", feature);
	selfcheck_exit(text, 0);
}

static UNUSED void __attribute__((format(printf, 1, 2))) fail(const char *format, ...)
{
	va_list args;
	size_t room;

	pthread_mutex_lock(&selfcheck_lock);
	room = sizeof(selfcheck_log) - selfcheck_used;
	if (room > 600) {
		selfcheck_used += (size_t)snprintf(selfcheck_log + selfcheck_used, room, "FAIL: ");
		va_start(args, format);
		selfcheck_used += (size_t)vsnprintf(selfcheck_log + selfcheck_used, 512, format, args);
		va_end(args);
		strcpy(selfcheck_log + selfcheck_used, "\n");
		selfcheck_used = strlen(selfcheck_log);
	}
	pthread_mutex_unlock(&selfcheck_lock);
}

static UNUSED void check_int(const char *what, long long expected, long long got)
{
	if (expected != got)
		fail("%s: expected %lld (%#llx) got %lld (%#llx)", what, expected,
		     (unsigned long long)expected, got, (unsigned long long)got);
}

static UNUSED void check_str(const char *what, const char *expected, const char *got)
{
	if (strcmp(expected, got))
		fail("%s: expected \"%.200s\" got \"%.200s\"", what, expected, got);
}

static UNUSED void check_mem(const char *what, const void *expected, const void *got, size_t len)
{
	const unsigned char *a = expected, *b = got;

	for (size_t i = 0; i < len; i++) {
		if (a[i] != b[i]) {
			fail("%s: expected byte %zu of %zu to be %#x got %#x", what, i, len, a[i], b[i]);
			return;
		}
	}
}

static UNUSED void check_fill(const char *what, int expected, const void *got, size_t len)
{
	const unsigned char *b = got;

	for (size_t i = 0; i < len; i++) {
		if (b[i] != (unsigned char)expected) {
			fail("%s: expected byte %zu of %zu to be %#x got %#x", what, i, len, expected, b[i]);
			return;
		}
	}
}

/* A call that must succeed; its result is returned for further checks. */
static UNUSED long check_ok(const char *what, long result)
{
	if (result < 0)
		fail("%s: expected success got %ld (%s)", what, result, strerror(errno));
	return result;
}

static UNUSED void check_errno(const char *what, int expected, long result)
{
	if (result != -1)
		fail("%s: expected %s got result %ld", what, strerror(expected), result);
	else if (errno != expected)
		fail("%s: expected %s got %s", what, strerror(expected), strerror(errno));
}

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond))                                                                       \
			fail("line %d: expected %s got false (errno %s)", __LINE__, #cond,         \
			     strerror(errno));                                                     \
	} while (0)

static UNUSED long long clock_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static UNUSED void sleep_ms(int ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000L };

	while (nanosleep(&ts, &ts) && errno == EINTR)
		;
}

static void selfcheck_begin(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: %s DIR [CASE...]\n", argv[0]);
		_exit(64);
	}
	snprintf(selfcheck_dir, sizeof(selfcheck_dir), "%s", argv[1]);
}

static UNUSED void selfcheck_ready(void)
{
	char text[32];

	snprintf(text, sizeof(text), "%d\n", (int)getpid());
	selfcheck_publish("ready", text);
}

static UNUSED int selfcheck_told_to_go(void)
{
	char path[600];
	ssize_t n;
	int fd;

	selfcheck_path(path, sizeof(path), "go");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, selfcheck_mode, sizeof(selfcheck_mode) - 1);
	close(fd);
	selfcheck_mode[n > 0 ? n : 0] = 0;
	return 1;
}

static UNUSED void selfcheck_wait_go(void)
{
	while (!selfcheck_told_to_go())
		sleep_ms(5);
}

static UNUSED int selfcheck_restored(void)
{
	return !strcmp(selfcheck_mode, "restored") || !strcmp(selfcheck_mode, "verified");
}

static UNUSED void selfcheck_park(void)
{
	selfcheck_ready();
	selfcheck_wait_go();
}

static UNUSED int selfcheck_end(void)
{
	selfcheck_publish("result", selfcheck_used ? selfcheck_log : "PASS\n");
	return selfcheck_used ? 1 : 0;
}

#endif

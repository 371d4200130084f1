/* What /proc says about the target itself: a second source beside the system calls. */
#ifndef SELFCHECK_PROC_H
#define SELFCHECK_PROC_H

#include "selfcheck.h"

static UNUSED ssize_t proc_read(const char *path, char *out, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	ssize_t n;

	out[0] = 0;
	if (fd < 0)
		return -1;
	while (used < size - 1 && (n = read(fd, out + used, size - 1 - used)) > 0)
		used += (size_t)n;
	close(fd);
	out[used] = 0;
	return (ssize_t)used;
}

/* The value after "KEY:" in a status-like text, without leading blanks. */
static UNUSED int proc_key(const char *text, const char *key, char *out, size_t size)
{
	size_t len = strlen(key);

	for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : 0) {
		if (!strncmp(line, key, len) && line[len] == ':') {
			line += len + 1;
			line += strspn(line, " \t");
			snprintf(out, size, "%.*s", (int)strcspn(line, "\n"), line);
			return 1;
		}
	}
	snprintf(out, size, "(no %s)", key);
	return 0;
}

static UNUSED void proc_thread_status(pid_t tid, const char *key, char *out, size_t size)
{
	char path[64], text[8192];

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	proc_read(path, text, sizeof(text));
	proc_key(text, key, out, size);
}

/* The smaps paragraph of the area that holds addr; its first line is the maps line. */
static UNUSED int proc_smaps(const void *addr, char *out, size_t size)
{
	FILE *f = fopen("/proc/thread-self/smaps", "re");
	char line[4096];
	size_t used = 0;
	int found = 0;

	out[0] = 0;
	if (!f)
		return 0;
	while (fgets(line, sizeof(line), f)) {
		unsigned long start, end;

		if (sscanf(line, "%lx-%lx ", &start, &end) == 2) {
			if (found)
				break;
			found = (unsigned long)addr >= start && (unsigned long)addr < end;
		}
		if (found && used + strlen(line) + 1 < size) {
			strcpy(out + used, line);
			used += strlen(line);
		}
	}
	fclose(f);
	return found;
}

static UNUSED int vma_has_flag(const void *addr, const char *flag)
{
	char text[8192], flags[256], *word, *save;

	if (!proc_smaps(addr, text, sizeof(text)) || !proc_key(text, "VmFlags", flags, sizeof(flags)))
		return 0;
	for (word = strtok_r(flags, " ", &save); word; word = strtok_r(0, " ", &save))
		if (!strcmp(word, flag))
			return 1;
	return 0;
}

static UNUSED long vma_kib(const void *addr, const char *key)
{
	char text[8192], value[64];

	if (!proc_smaps(addr, text, sizeof(text)) || !proc_key(text, key, value, sizeof(value)))
		return -1;
	return atol(value);
}

static UNUSED void vma_perms(const void *addr, char out[5])
{
	char text[8192];

	strcpy(out, "none");
	if (proc_smaps(addr, text, sizeof(text)))
		sscanf(text, "%*s %4s", out);
}

/* The line "KEY: value" of /proc/self/fdinfo/FD. */
static UNUSED void proc_fdinfo(int fd, const char *key, char *out, size_t size)
{
	char path[64], text[8192];

	snprintf(path, sizeof(path), "/proc/thread-self/fdinfo/%d", fd);
	proc_read(path, text, sizeof(text));
	proc_key(text, key, out, size);
}

#endif

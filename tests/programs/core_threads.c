/*
 * A process whose state a debugger knows by heart: threads in calls of several
 * kinds, some frames deep, with locals; registers with known content; variables
 * in every kind of memory.  `core_threads DIR` writes DIR/ready and stays.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MEBI (1UL << 20)

struct node {
	int value;
	const char *name;
	struct node *next;
};

int initialized[4] = { 11, 22, 33, 44 };
char zeroed[3 * 4096];
const char constant[] = "a constant";
__thread volatile int own_number;
struct node *list;
char *shared_anon, *memfd_shared, *memfd_private, *deleted_private, *mapped_private;
char *mapped_shared, *large, *secret, *read_only;
volatile int spin = 1;
static pthread_barrier_t barrier;

#define NOINLINE __attribute__((noinline, noclone))

static NOINLINE void wait_nanosleep(int depth)
{
	struct timespec limit = { 100000, 0 };

	if (depth)
		wait_nanosleep(depth - 1);
	else
		nanosleep(&limit, NULL);
	__asm__ volatile("" ::: "memory");
}

static NOINLINE void wait_futex(int *word)
{
	syscall(SYS_futex, word, 0, *word, NULL, NULL, 0);
	__asm__ volatile("" ::: "memory");
}

static NOINLINE void wait_poll(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };

	poll(&one, 1, 100000000);
	__asm__ volatile("" ::: "memory");
}

static NOINLINE void wait_sigtimedwait(void)
{
	struct timespec limit = { 100000, 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	/* A debugger that attaches breaks this call off. */
	while (sigtimedwait(&set, NULL, &limit) < 0)
		;
	__asm__ volatile("" ::: "memory");
}

/* Runs without a call, with vector registers that nothing else touches. */
static NOINLINE void wait_spinning(void)
{
	__asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\t"
			 "psrlq $7, %%xmm0\n\t"
			 "movq %0, %%xmm7\n\t"
			 "fldpi\n\t"
			 "movq %0, %%r15\n"
			 "1:\tpause\n\t"
			 "cmpl $0, %1\n\t"
			 "jne 1b\n\t"
			 "fstp %%st(0)"
			 :
			 : "r"(0x1122334455667788UL), "m"(spin)
			 : "xmm0", "xmm7", "r15", "cc", "memory");
}

static void *run(void *argument)
{
	int index = (int)(intptr_t)argument;
	int word = 5;

	own_number = 100 + index;
	pthread_setname_np(pthread_self(), index ? "worker" : "worker zero");
	pthread_barrier_wait(&barrier);
	switch (index) {
	case 0: wait_nanosleep(3); break;
	case 1: wait_futex(&word); break;
	case 2: wait_poll(-1); break;
	case 3: wait_sigtimedwait(); break;
	default: wait_spinning();
	}
	return NULL;
}

static char *map(size_t size, int prot, int flags, int fd, off_t offset)
{
	char *address = mmap(NULL, size, prot, flags, fd, offset);

	if (address == MAP_FAILED)
		_exit(3);
	return address;
}

static int make_file(const char *dir, const char *name, const char *text)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	/* Longer than a page, and not a whole number of pages. */
	if (fd < 0 || ftruncate(fd, 3 * 4096 + 100) || pwrite(fd, text, strlen(text), 4096 + 10) < 0)
		_exit(3);
	return fd;
}

static void map_files(const char *dir)
{
	const size_t size = 4 * 4096;
	int named = make_file(dir, "named", "in the file"), gone = make_file(dir, "gone", "was deleted");
	int memfd = memfd_create("core test", MFD_CLOEXEC);
	char path[4096];

	mapped_shared = map(size, PROT_READ | PROT_WRITE, MAP_SHARED, named, 0);
	mapped_private = map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE, named, 0);
	strcpy(mapped_private + 8200, "on its own page");
	deleted_private = map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE, gone, 0);
	strcpy(deleted_private + 10, "own page of a deleted file");
	snprintf(path, sizeof(path), "%s/gone", dir);
	unlink(path);
	if (ftruncate(memfd, 2 * 4096 + 50))
		_exit(3);
	memfd_shared = map(size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	strcpy(memfd_shared, "memfd, first page");
	strcpy(memfd_shared + 8192, "memfd, its tail");
	memfd_private = map(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, memfd, 8192);
}

static void map_memory(void)
{
	shared_anon = map(3 * MEBI, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	strcpy(shared_anon + 2 * MEBI, "shared by nobody");
	/* Much more than a core may have in holes. */
	large = map(4096 * MEBI, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	strcpy(large + 100, "at the front");
	strcpy(large + 3000 * MEBI, "far behind");
	secret = map(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(secret, "not for cores");
	madvise(secret, 4096, MADV_DONTDUMP);
	read_only = map(4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	strcpy(read_only, "may not be written");
	mprotect(read_only, 4096, PROT_READ);
}

static void make_list(void)
{
	for (int i = 0; i < 3; i++) {
		struct node *node = malloc(sizeof(*node));

		*node = (struct node){ i * i, i ? "other" : "last", list };
		list = node;
	}
}

int main(int argc, char **argv)
{
	pthread_t threads[5];
	char path[4096];

	if (argc < 2)
		return 2;
	make_list();
	map_memory();
	map_files(argv[1]);
	signal(SIGUSR1, SIG_IGN);
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGRTMIN + 3);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	raise(SIGRTMIN + 3);
	initialized[2] = 303;
	zeroed[5000] = 'z';
	pthread_barrier_init(&barrier, NULL, 6);
	for (intptr_t i = 0; i < 5; i++)
		pthread_create(&threads[i], NULL, run, (void *)i);
	pthread_barrier_wait(&barrier);
	snprintf(path, sizeof(path), "%s/ready", argv[1]);
	close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	pthread_join(threads[0], NULL);
	return 0;
}

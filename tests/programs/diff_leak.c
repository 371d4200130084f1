/*
 * Leaks memory and descriptors and changes known globals between two snapshots.
 *
 * Ready; when DIR/leak is there it changes what tests/live/test_diff.py expects, publishes
 * DIR/leaked, and goes on to check that being looked at has changed nothing.
 */
#include "selfcheck_threads.h"

#include <sys/resource.h>

#define BLOCKS 400
#define BLOCK 1500
#define LEAKED_FILES 6
#define LEAKED_PIPES 2
#define ANON (192 << 10)
#define PAGE 4096

int leaked_blocks = 3;
long untouched = 0x5555;
int rewritten = 77;
void *last_leak;
static unsigned char table[5 * PAGE] __attribute__((aligned(PAGE)));
static double rate = 0.5;
static int readings[3] = { 1, 2, 3 };

static char *kept, *volatile first;
static int moved_fd, closed_fd;

static void on_usr1(int signo)
{
	(void)signo;
}

/* Its code is changed, as a debugger's breakpoint would. */
static void __attribute__((noinline, aligned(PAGE))) patched(void)
{
	untouched++;
}

static void patch(void)
{
	unsigned char *code = (unsigned char *)patched;

	REQUIRE(!mprotect(code, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC));
	code[0] = 0xcc;
	REQUIRE(!mprotect(code, PAGE, PROT_READ | PROT_EXEC));
}

static void *sleep_on(void *unused)
{
	REQUIRE(!prctl(PR_SET_NAME, "leaked"));
	sleep_ms(600000);
	return unused;
}

static void leak_memory(void)
{
	char *anon;

	for (int i = 0; i < BLOCKS; i++) {
		char *block = malloc(BLOCK);

		REQUIRE(block);
		memset(block, i + 1, BLOCK);
		last_leak = block;
		leaked_blocks++;
	}
	anon = mmap(0, ANON, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	REQUIRE(anon != MAP_FAILED);
	memset(anon, 1, ANON);
}

static void leak_descriptors(const char *path)
{
	int ends[2];

	for (int i = 0; i < LEAKED_FILES; i++)
		REQUIRE(open(path, O_RDONLY) >= 0);
	for (int i = 0; i < LEAKED_PIPES; i++)
		REQUIRE(!pipe(ends));
	REQUIRE(lseek(moved_fd, 9, SEEK_SET) == 9);
	REQUIRE(!close(closed_fd));
}

static void change_the_rest(void)
{
	struct rlimit limit;
	pthread_t thread;
	sigset_t set;

	table[PAGE + 5] = 1;
	table[3 * PAGE - 1] = 2;
	table[3 * PAGE] = 3;
	rate *= 3;
	readings[1] = -2;
	*(volatile int *)&rewritten = 77;
	patch();
	REQUIRE(!mprotect(kept, PAGE, PROT_READ));
	REQUIRE(signal(SIGUSR1, on_usr1) != SIG_ERR);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	REQUIRE(!pthread_sigmask(SIG_BLOCK, &set, 0));
	REQUIRE(!raise(SIGUSR2));
	REQUIRE(!getrlimit(RLIMIT_CORE, &limit));
	limit.rlim_cur = 4096 < limit.rlim_max ? 4096 : 0;
	REQUIRE(!setrlimit(RLIMIT_CORE, &limit));
	REQUIRE(!pthread_create(&thread, 0, sleep_on, 0));
}

int main(int argc, char **argv)
{
	char path[600], leak[600];

	selfcheck_begin(argc, argv);
	selfcheck_path(path, sizeof(path), "data");
	selfcheck_path(leak, sizeof(leak), "leak");
	moved_fd = open(path, O_RDWR | O_CREAT, 0600);
	closed_fd = open(path, O_RDONLY);
	REQUIRE(moved_fd >= 0 && closed_fd >= 0 && write(moved_fd, "0123456789", 10) == 10);
	kept = mmap(0, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	REQUIRE(kept != MAP_FAILED);
	memset(kept, 1, 3 * PAGE);
	first = malloc(BLOCK);
	REQUIRE(first);
	table[0] = 1;
	patched();
	untouched--;
	selfcheck_ready();
	while (access(leak, F_OK))
		sleep_ms(5);
	leak_memory();
	leak_descriptors(path);
	change_the_rest();
	selfcheck_publish("leaked", "");
	selfcheck_wait_go();
	check_int("leaked blocks", 3 + BLOCKS, leaked_blocks);
	check_int("the last block", BLOCKS % 256, *(unsigned char *)last_leak);
	check_int("table", 6, table[PAGE + 5] + table[3 * PAGE - 1] + table[3 * PAGE]);
	check_int("position", 9, lseek(moved_fd, 0, SEEK_CUR));
	CHECK(rate == 1.5 && untouched == 0x5555 && rewritten == 77 && readings[1] == -2);
	return selfcheck_end();
}

/* One thread in strict seccomp, blocked in a read; the others are free. */
#include "selfcheck_proc.h"
#include <linux/seccomp.h>

static int to_thread[2], from_thread[2];
static volatile pid_t strict_tid;

static void *strict_main(void *arg)
{
	char byte;
	long n;

	strict_tid = gettid();
	REQUIRE(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
	/* only read, write, exit and sigreturn from here on */
	n = syscall(SYS_read, to_thread[0], &byte, 1);
	byte = n == 1 ? (char)(byte + 1) : 'e';
	syscall(SYS_write, from_thread[1], &byte, 1);
	syscall(SYS_exit, 0);
	return arg;
}

static void expect_seccomp(const char *expected)
{
	char text[32];

	proc_thread_status(strict_tid, "Seccomp", text, sizeof(text));
	check_str("Seccomp", expected, text);
}

int main(int argc, char **argv)
{
	char byte = 0, text[32] = "";
	pthread_t thread;

	selfcheck_begin(argc, argv);
	REQUIRE(!pipe(to_thread) && !pipe(from_thread));
	REQUIRE(!pthread_create(&thread, 0, strict_main, 0));
	while (strcmp(text, "1")) {
		sleep_ms(1);
		proc_thread_status(strict_tid, "Seccomp", text, sizeof(text));
	}
	selfcheck_park();
	expect_seccomp("1");
	proc_thread_status(getpid(), "Seccomp", text, sizeof(text));
	check_str("Seccomp of the main thread", "0", text);
	REQUIRE(write(to_thread[1], "a", 1) == 1);
	check_int("answer", 1, read(from_thread[0], &byte, 1));
	check_int("answered byte", 'b', byte);
	check_int("pthread_join", 0, pthread_join(thread, 0));
	return selfcheck_end();
}

/* One thing a case that a snapshot refuses; the program must go on as if nobody had asked. */
#include "selfcheck.h"
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/ptrace.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/wait.h>

static pid_t child;
static int semaphores = -1;

static void make_child(void)
{
	child = fork();
	REQUIRE(child >= 0);
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
}

static void make_zombie(void)
{
	siginfo_t info;

	child = fork();
	REQUIRE(child >= 0);
	if (!child)
		_exit(7);
	REQUIRE(!waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT));
}

static void make_aio(void)
{
	aio_context_t context = 0;

	REQUIRE(!syscall(SYS_io_setup, 8, &context));
}

static void make_io_uring(void)
{
	struct io_uring_params params = { 0 };

	if (syscall(SYS_io_uring_setup, 4, &params) < 0)
		skip_kernel("io_uring");
}

static void make_shm(void)
{
	int id = shmget(IPC_PRIVATE, 8192, 0600);

	REQUIRE(id >= 0);
	REQUIRE(shmat(id, 0, 0) != (void *)-1);
	REQUIRE(!shmctl(id, IPC_RMID, 0));
}

static void make_undo(void)
{
	struct sembuf raise = { 0, 1, SEM_UNDO };

	semaphores = semget(IPC_PRIVATE, 1, 0600);
	REQUIRE(semaphores >= 0);
	REQUIRE(!semop(semaphores, &raise, 1));
}

static void *own_net(void *ready)
{
	REQUIRE(!unshare(CLONE_NEWNET));
	__atomic_store_n((int *)ready, 1, __ATOMIC_RELEASE);
	for (;;)
		pause();
}

static void make_thread_netns(void)
{
	static int ready;
	pthread_t thread;

	REQUIRE(!pthread_create(&thread, 0, own_net, &ready));
	while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE))
		sleep_ms(1);
}

static void make_listener(void)
{
	struct sock_filter code[] = { BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
				      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
				      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
				      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { 4, code };
	long fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
			  &program);

	REQUIRE(fd >= 0);
	/* The other end stays with nobody: only the filter tells. */
	REQUIRE(!close((int)fd));
}

static void make_timens(void)
{
	REQUIRE(!unshare(CLONE_NEWTIME));
}

static void make_utsns(void)
{
	REQUIRE(!unshare(CLONE_NEWUTS));
}

static char sharer_stack[16384] __attribute__((aligned(16)));
static pid_t sharer;

static int share_memory(void *unused)
{
	(void)unused;
	while (syscall(SYS_pause))
		;
	return 0;
}

/* Not a child of ours: only the memory ties us. */
static void make_shared_memory(void)
{
	sharer = clone(share_memory, sharer_stack + sizeof(sharer_stack), CLONE_VM | CLONE_PARENT,
		       NULL);
	REQUIRE(sharer > 0);
}

static const struct {
	const char *name;
	void (*make)(void);
} cases[] = {
	{ "child", make_child },       { "zombie", make_zombie },     { "aio", make_aio },
	{ "io_uring", make_io_uring }, { "shm", make_shm },	      { "undo", make_undo },
	{ "netns", make_thread_netns }, { "listener", make_listener }, { "timens", make_timens },
	{ "utsns", make_utsns },	{ "shared_mm", make_shared_memory },
};

int main(int argc, char **argv)
{
	size_t i = 0;

	selfcheck_begin(argc, argv);
	REQUIRE(argc == 3);
	while (i < sizeof(cases) / sizeof(*cases) && strcmp(cases[i].name, argv[2]))
		i++;
	REQUIRE(i < sizeof(cases) / sizeof(*cases));
	cases[i].make();
	selfcheck_park();
	if (child) {
		kill(child, SIGKILL);
		check_int("the child is ours", child, waitpid(child, 0, 0));
	}
	if (sharer)
		check_ok("the other process of our memory", kill(sharer, SIGKILL));
	if (semaphores >= 0)
		check_int("semaphore", 1, semctl(semaphores, 0, GETVAL)),
			semctl(semaphores, 0, IPC_RMID);
	return selfcheck_end();
}

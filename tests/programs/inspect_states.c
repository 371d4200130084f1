/*
 * Threads and processes in every state that `inspect` describes. Says what it set up, one
 * "name value..." line each, ending with "READY", then waits for its standard input to close.
 * It does not check itself: tests/live/test_inspect.py compares.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONG_S 1000
#define ALTSTACK_BYTES 32768
#define STACK_BYTES 65536
#define IDLE_THREADS 6
#define NR_FUTEX_WAITV 449

#define REQUIRE(cond)                                                                              \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			printf("FAILED line %d: %s: %s\n", __LINE__, #cond, strerror(errno));      \
			fflush(stdout);                                                            \
			_exit(2);                                                                  \
		}                                                                                  \
	} while (0)

struct waitv {
	uint64_t val;
	uint64_t uaddr;
	uint32_t flags;
	uint32_t reserved;
};

struct lock {
	struct robust_list list;
	uint32_t futex;
	uint32_t padding;
};

pthread_mutex_t robust_mutex, robust_second, pi_mutex;
pthread_mutex_t first_mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_mutex_t second_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_mutex_t said = PTHREAD_MUTEX_INITIALIZER;
static int pipe_fds[2], unix_fds[2], listener, tcp_client, tcp_server, epoll_fd, semaphores;
static uint32_t word, idle_word;
static uint32_t *shared_word;
static pid_t main_pid, own_pid;
static struct robust_list_head own_head;
static struct lock own_locks[2];
static char child_stack[STACK_BYTES] __attribute__((aligned(16)));
static char other_stack[STACK_BYTES] __attribute__((aligned(16)));

static pid_t own_tid(void)
{
	return (pid_t)syscall(SYS_gettid);
}

static void say(const char *kind)
{
	pthread_mutex_lock(&said);
	printf("thread %s %d\n", kind, own_tid());
	pthread_mutex_unlock(&said);
	prctl(PR_SET_NAME, kind);
}

static void block_for_ever(void)
{
	char byte;

	REQUIRE(read(pipe_fds[0], &byte, 1) == 1);
}

static void *robust_owner(void *unused)
{
	say("robust_owner");
	pthread_mutex_lock(&robust_mutex);
	pthread_mutex_lock(&robust_second);
	pthread_mutex_lock(&pi_mutex);
	pthread_barrier_wait(&barrier);
	block_for_ever();
	return unused;
}

static void *robust_waiter(void *unused)
{
	say("robust_waiter");
	pthread_barrier_wait(&barrier);
	pthread_mutex_lock(&robust_mutex);
	return unused;
}

static void *pi_waiter(void *unused)
{
	say("pi_waiter");
	pthread_barrier_wait(&barrier);
	pthread_mutex_lock(&pi_mutex);
	return unused;
}

static void *lock_two(void *order)
{
	pthread_mutex_t *own = order ? &first_mutex : &second_mutex;
	pthread_mutex_t *other = order ? &second_mutex : &first_mutex;

	pthread_mutex_lock(own);
	say(order ? "deadlock_one" : "deadlock_two");
	pthread_barrier_wait(&barrier);
	pthread_mutex_lock(other);
	return order;
}

void on_alternate_stack(int signo)
{
	(void)signo;
	pause();
}

static void *in_handler(void *unused)
{
	stack_t stack = { .ss_sp = malloc(ALTSTACK_BYTES), .ss_size = ALTSTACK_BYTES };

	REQUIRE(!sigaltstack(&stack, NULL));
	pthread_mutex_lock(&said);
	printf("altstack %lu\n", (unsigned long)stack.ss_sp);
	pthread_mutex_unlock(&said);
	say("in_handler");
	pthread_barrier_wait(&barrier);
	pthread_kill(pthread_self(), SIGUSR1);
	return unused;
}

static void *in_poll(void *unused)
{
	struct pollfd fds[] = {
		{ pipe_fds[0], POLLPRI, 0 }, { unix_fds[0], POLLIN, 0 }, { -1, POLLOUT, 0 }
	};

	say("poll");
	pthread_barrier_wait(&barrier);
	poll(fds, 3, LONG_S * 1000);
	return unused;
}

static void *in_select(void *unused)
{
	fd_set reading;

	FD_ZERO(&reading);
	FD_SET(unix_fds[0], &reading);
	say("select");
	pthread_barrier_wait(&barrier);
	select(unix_fds[0] + 1, &reading, NULL, NULL, NULL);
	return unused;
}

static void *in_recv(void *unused)
{
	char byte;

	say("recv");
	pthread_barrier_wait(&barrier);
	recv(tcp_client, &byte, 1, MSG_PEEK);
	return unused;
}

static void *in_accept(void *unused)
{
	say("accept");
	pthread_barrier_wait(&barrier);
	accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return unused;
}

static void *in_epoll(void *unused)
{
	struct epoll_event events[4];

	say("epoll");
	pthread_barrier_wait(&barrier);
	epoll_wait(epoll_fd, events, 4, -1);
	return unused;
}

static void *in_semop(void *unused)
{
	struct sembuf operation = { 1, -3, 0 };

	say("semop");
	pthread_barrier_wait(&barrier);
	semop(semaphores, &operation, 1);
	return unused;
}

static void *in_sigwait(void *unused)
{
	struct timespec limit = { LONG_S, 0 };
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGRTMIN + 3);
	say("sigwait");
	pthread_barrier_wait(&barrier);
	sigtimedwait(&set, NULL, &limit);
	return unused;
}

static void *in_sigsuspend(void *unused)
{
	sigset_t set;

	sigfillset(&set);
	sigdelset(&set, SIGTERM);
	say("sigsuspend");
	pthread_barrier_wait(&barrier);
	sigsuspend(&set);
	return unused;
}

static void *in_waitv(void *unused)
{
	struct waitv both[2] = {
		{ 0, (uintptr_t)&word, FUTEX_PRIVATE_FLAG | 2, 0 },
		{ 0, (uintptr_t)&idle_word, FUTEX_PRIVATE_FLAG | 2, 0 },
	};

	say("waitv");
	pthread_barrier_wait(&barrier);
	syscall(NR_FUTEX_WAITV, both, 2, 0, NULL, 0);
	return unused;
}

static void *in_futex(void *unused)
{
	struct timespec limit = { LONG_S, 500000000 };

	say("futex");
	pthread_barrier_wait(&barrier);
	syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0);
	return unused;
}

static void *in_shared_futex(void *unused)
{
	say("shared_futex");
	pthread_barrier_wait(&barrier);
	syscall(SYS_futex, shared_word, FUTEX_WAIT, 0, NULL, NULL, 0);
	return unused;
}

/* Its list holds itself twice over, one entry being taken, and goes in circles. */
static void *circular(void *unused)
{
	own_head.list.next = &own_locks[0].list;
	own_locks[0].list.next = &own_locks[1].list;
	own_locks[1].list.next = &own_locks[0].list;
	own_head.futex_offset = offsetof(struct lock, futex) - offsetof(struct lock, list);
	own_head.list_op_pending = (struct robust_list *)((uintptr_t)&own_locks[1].list | 1);
	own_locks[0].futex = own_tid() | FUTEX_OWNER_DIED;
	own_locks[1].futex = own_tid() | FUTEX_WAITERS;
	REQUIRE(!syscall(SYS_set_robust_list, &own_head, sizeof(own_head)));
	say("circular");
	pthread_barrier_wait(&barrier);
	block_for_ever();
	return unused;
}

static void *idle(void *unused)
{
	prctl(PR_SET_NAME, "idle");
	pthread_barrier_wait(&barrier);
	syscall(SYS_futex, &idle_word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return unused;
}

static void *spin(void *unused)
{
	say("spin");
	pthread_barrier_wait(&barrier);
	for (;;)
		__asm__ volatile("" ::: "memory");
	return unused;
}

/* Ends with its parent, also if that has ended already. */
static void end_with_parent(pid_t parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(0);
}

static int child_main(void *name)
{
	end_with_parent(main_pid);
	prctl(PR_SET_NAME, (char *)name);
	for (;;)
		pause();
	return 0;
}

static void report_child(const char *kind, pid_t pid)
{
	REQUIRE(pid > 0);
	printf("child %s %d\n", kind, pid);
}

static pid_t start_child(void)
{
	pid_t pid = fork();

	if (pid == 0)
		end_with_parent(main_pid);
	return pid;
}

static void start_children(void)
{
	pid_t pid;
	int status;

	report_child("shares_files", clone(child_main, child_stack + STACK_BYTES,
					   CLONE_FILES | CLONE_FS | SIGCHLD, "shares_files"));
	report_child("shares_mm", clone(child_main, other_stack + STACK_BYTES, CLONE_VM | SIGCHLD,
					"shares_mm"));
	pid = start_child();
	if (pid == 0)
		_exit(7);
	report_child("zombie", pid);
	REQUIRE(!waitid(P_PID, (id_t)pid, NULL, WEXITED | WNOWAIT));
	pid = start_child();
	if (pid == 0) {
		raise(SIGSTOP);
		_exit(0);
	}
	report_child("stopped", pid);
	REQUIRE(waitpid(pid, &status, WUNTRACED) == pid);
	pid = start_child();
	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGUSR2);
		_exit(0);
	}
	report_child("traced", pid);
	REQUIRE(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
	pid = start_child();
	if (pid == 0) {
		prctl(PR_SET_NAME, "vfork_parent");
		own_pid = getpid();
		if (vfork() == 0) {
			end_with_parent(own_pid);
			for (;;)
				pause();
		}
		_exit(0);
	}
	report_child("vfork_parent", pid);
	pid = start_child();
	if (pid == 0) {
		prctl(PR_SET_NAME, "shares_futex");
		syscall(SYS_futex, shared_word, FUTEX_WAIT, 0, NULL, NULL, 0);
		_exit(0);
	}
	report_child("shares_futex", pid);
}

static void make_tcp(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	socklen_t length = sizeof(address);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	REQUIRE(!bind(listener, (struct sockaddr *)&address, sizeof(address)));
	REQUIRE(!listen(listener, 4));
	REQUIRE(!getsockname(listener, (struct sockaddr *)&address, &length));
	printf("listener %d %d\n", listener, ntohs(address.sin_port));
	tcp_client = socket(AF_INET, SOCK_STREAM, 0);
	REQUIRE(!connect(tcp_client, (struct sockaddr *)&address, sizeof(address)));
	tcp_server = accept(listener, NULL, NULL);
	REQUIRE(tcp_server >= 0);
	length = sizeof(address);
	REQUIRE(!getsockname(tcp_client, (struct sockaddr *)&address, &length));
	printf("client %d %d\n", tcp_client, ntohs(address.sin_port));
}

static void make_objects(void)
{
	struct epoll_event event = { .events = EPOLLPRI };

	REQUIRE(!pipe(pipe_fds));
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM, 0, unix_fds));
	make_tcp();
	epoll_fd = epoll_create1(0);
	REQUIRE(!epoll_ctl(epoll_fd, EPOLL_CTL_ADD, unix_fds[1], &event));
	semaphores = semget(IPC_PRIVATE, 2, 0600);
	REQUIRE(semaphores >= 0);
	printf("pipe %d\nunix %d %d\nepoll %d\n", pipe_fds[0], unix_fds[0], unix_fds[1], epoll_fd);
	shared_word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	REQUIRE(shared_word != MAP_FAILED);
}

static void make_mutexes(void)
{
	pthread_mutexattr_t attributes;

	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust_mutex, &attributes);
	pthread_mutex_init(&robust_second, &attributes);
	pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(&pi_mutex, &attributes);
}

static void make_timers(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 };
	struct itimerspec when = { { 5, 0 }, { LONG_S, 0 } };
	struct itimerval alarm_in = { { 0, 0 }, { 2 * LONG_S, 0 } };
	timer_t timer;

	REQUIRE(!timer_create(CLOCK_BOOTTIME, &event, &timer));
	REQUIRE(!timer_settime(timer, 0, &when, NULL));
	REQUIRE(!setitimer(ITIMER_REAL, &alarm_in, NULL));
}

static void make_signals(void)
{
	struct sigaction action = { .sa_handler = on_alternate_stack, .sa_flags = SA_ONSTACK };
	struct rlimit limit = { 123, 456 };
	sigset_t set;

	sigaddset(&action.sa_mask, SIGQUIT);
	REQUIRE(!sigaction(SIGUSR1, &action, NULL));
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGRTMIN + 3);
	sigaddset(&set, SIGUSR2);
	REQUIRE(!sigprocmask(SIG_BLOCK, &set, NULL));
	kill(getpid(), SIGUSR2);
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &limit));
}

static void say_addresses(void)
{
	pthread_mutex_lock(&said);
	printf("address robust %lu\naddress robust_second %lu\naddress pi %lu\n",
	       (unsigned long)&robust_mutex, (unsigned long)&robust_second, (unsigned long)&pi_mutex);
	printf("address first %lu\naddress second %lu\naddress word %lu\naddress shared %lu\n",
	       (unsigned long)&first_mutex, (unsigned long)&second_mutex, (unsigned long)&word,
	       (unsigned long)shared_word);
	printf("locks %lu %lu\nsemaphores %d\nREADY\n", (unsigned long)&own_locks[0],
	       (unsigned long)&own_locks[1], semaphores);
	fflush(stdout);
	pthread_mutex_unlock(&said);
}

int main(void)
{
	static void *(*const threads[])(void *) = {
		robust_owner, robust_waiter, pi_waiter,	 in_handler,	  in_poll,    in_select,
		in_recv,      in_accept,     in_epoll,	 in_semop,	  in_sigwait, in_sigsuspend,
		in_waitv,     in_futex,	     in_shared_futex, circular,	  spin,
	};
	const int count = sizeof(threads) / sizeof(threads[0]);
	pthread_t thread;
	char byte;
	int i;

	main_pid = getpid();
	make_objects();
	make_mutexes();
	start_children();
	make_signals();
	make_timers();
	pthread_barrier_init(&barrier, NULL, (unsigned)count + IDLE_THREADS + 3);
	for (i = 0; i < count; i++)
		REQUIRE(!pthread_create(&thread, NULL, threads[i], NULL));
	for (i = 0; i < IDLE_THREADS; i++)
		REQUIRE(!pthread_create(&thread, NULL, idle, NULL));
	REQUIRE(!pthread_create(&thread, NULL, lock_two, &word));
	REQUIRE(!pthread_create(&thread, NULL, lock_two, NULL));
	pthread_barrier_wait(&barrier);
	say_addresses();
	while (read(0, &byte, 1) == 1 || errno == EINTR)
		errno = 0;
	semctl(semaphores, 0, IPC_RMID);
	return 0;
}

/*
 * Sets up everything that the BPF iterators read, says what it set up (one "name value..." line
 * each, ending with "READY"), and waits for commands on standard input: "fork", "thread", "quit".
 * It does not check itself: tests/live/test_bpf_view.py compares with second sources.
 */
#define _GNU_SOURCE
#include <asm/ldt.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LONG_S 1000
#define NS_PER_S 1000000000ull
#define SPARE_TIMERS 40
#define ALTSTACK_BYTES 16384
#ifndef PR_GET_TID_ADDRESS
#define PR_GET_TID_ADDRESS 40
#endif
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif
#define NR_COMPAT_SET_ROBUST_LIST 311
#define NR_COMPAT_GET_ROBUST_LIST 312
#define COMPAT_ROBUST_HEAD_BYTES 12
#define SS_AUTODISARM_BIT (1u << 31)

static int semaphores, queue = -1;
static uint32_t never;
static pthread_barrier_t started;

static void die(const char *what)
{
	printf("FAILED %s: %s\n", what, strerror(errno));
	exit(1);
}

static long check(long result, const char *what)
{
	if (result < 0)
		die(what);
	return result;
}

static pid_t my_tid(void)
{
	return syscall(SYS_gettid);
}

static unsigned long long now_ns(clockid_t clock)
{
	struct timespec t;

	check(clock_gettime(clock, &t), "clock_gettime");
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

/* --- threads that sleep: each says its tid, system call, clock and deadline, then sleeps --- */

static const struct timespec long_time = { .tv_sec = LONG_S, .tv_nsec = 123456789 };
static const struct timeval long_timeval = { .tv_sec = LONG_S, .tv_usec = 123456 };
#define LONG_NS (LONG_S * NS_PER_S + 123456789ull)

static void say_sleep(const char *kind, long number, int clock, unsigned long long deadline)
{
	printf("sleeper %s %d %ld %d %llu\n", kind, my_tid(), number, clock, deadline);
	fflush(stdout);
	pthread_barrier_wait(&started);
}

/* The deadline is a little early for a relative timeout, which starts when all threads are here. */
static void will_sleep(const char *kind, long number, int clock, unsigned long long timeout_ns)
{
	say_sleep(kind, number, clock, timeout_ns ? now_ns(clock) + timeout_ns : 0);
}

static void *sleep_nanosleep(void *unused)
{
	struct timespec left;

	will_sleep("nanosleep", SYS_clock_nanosleep, CLOCK_MONOTONIC, LONG_NS);
	syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &long_time, &left);
	return unused;
}

static void *sleep_boottime(void *unused)
{
	will_sleep("boottime", SYS_clock_nanosleep, CLOCK_BOOTTIME, LONG_NS);
	syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &long_time, NULL);
	return unused;
}

static void *sleep_realtime(void *unused)
{
	unsigned long long end = now_ns(CLOCK_REALTIME) + LONG_NS;
	struct timespec until = { end / NS_PER_S, end % NS_PER_S };

	say_sleep("realtime", SYS_clock_nanosleep, CLOCK_REALTIME, end);
	syscall(SYS_clock_nanosleep, CLOCK_REALTIME, TIMER_ABSTIME, &until, NULL);
	return unused;
}

static void *sleep_cpu(void *unused)
{
	clockid_t clock;

	/* Of a thread that itself only sleeps, so that the time never comes. */
	pthread_getcpuclockid(*(pthread_t *)unused, &clock);
	will_sleep("cpu", SYS_clock_nanosleep, CLOCK_MONOTONIC, 0);
	syscall(SYS_clock_nanosleep, clock, 0, &long_time, NULL);
	return NULL;
}

static void *sleep_futex(void *unused)
{
	will_sleep("futex", SYS_futex, CLOCK_MONOTONIC, LONG_NS);
	syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, &long_time, NULL, 0);
	return unused;
}

static void *sleep_futex_realtime(void *unused)
{
	unsigned long long end = now_ns(CLOCK_REALTIME) + LONG_NS;
	struct timespec until = { end / NS_PER_S, end % NS_PER_S };

	say_sleep("futex_realtime", SYS_futex, CLOCK_REALTIME, end);
	syscall(SYS_futex, &never, FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME, 0, &until,
		NULL, 0x5a);
	return unused;
}

static void *sleep_futex_forever(void *unused)
{
	will_sleep("futex_forever", SYS_futex, CLOCK_MONOTONIC, 0);
	syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return unused;
}

static void *sleep_poll(void *unused)
{
	will_sleep("poll", SYS_poll, CLOCK_MONOTONIC, LONG_S * NS_PER_S);
	syscall(SYS_poll, NULL, 0, LONG_S * 1000);
	return unused;
}

static void *sleep_ppoll(void *unused)
{
	struct timespec timeout = long_time;

	will_sleep("ppoll", SYS_ppoll, CLOCK_MONOTONIC, LONG_NS);
	syscall(SYS_ppoll, NULL, 0, &timeout, NULL, 8);
	return unused;
}

static void *sleep_select(void *unused)
{
	struct timeval timeout = long_timeval;

	will_sleep("select", SYS_select, CLOCK_MONOTONIC, LONG_S * NS_PER_S + 123456000);
	syscall(SYS_select, 0, NULL, NULL, NULL, &timeout);
	return unused;
}

static void *sleep_epoll(void *unused)
{
	struct epoll_event event;
	int fd = check(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");

	will_sleep("epoll", SYS_epoll_wait, CLOCK_MONOTONIC, LONG_S * NS_PER_S);
	syscall(SYS_epoll_wait, fd, &event, 1, LONG_S * 1000);
	return unused;
}

static void *sleep_sigtimedwait(void *unused)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMAX);
	sigprocmask(SIG_BLOCK, &set, NULL);
	will_sleep("sigtimedwait", SYS_rt_sigtimedwait, CLOCK_MONOTONIC, LONG_NS);
	syscall(SYS_rt_sigtimedwait, &set, NULL, &long_time, 8);
	return unused;
}

static void *sleep_semtimedop(void *unused)
{
	struct sembuf down = { .sem_num = 1, .sem_op = -1 };

	will_sleep("semtimedop", SYS_semtimedop, CLOCK_MONOTONIC, LONG_NS);
	syscall(SYS_semtimedop, semaphores, &down, 1, &long_time);
	return unused;
}

static void *sleep_mq(void *unused)
{
	unsigned long long end = now_ns(CLOCK_REALTIME) + LONG_NS;
	struct timespec until = { end / NS_PER_S, end % NS_PER_S };
	char message[64];

	say_sleep("mq", SYS_mq_timedreceive, CLOCK_REALTIME, end);
	syscall(SYS_mq_timedreceive, queue, message, sizeof(message), NULL, &until);
	return unused;
}

static void *sleep_recv(void *unused)
{
	int pair[2];
	char byte;

	check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), "socketpair");
	setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &long_timeval, sizeof(long_timeval));
	will_sleep("recv", SYS_recvfrom, CLOCK_MONOTONIC, LONG_S * NS_PER_S + 123456000);
	syscall(SYS_recvfrom, pair[0], &byte, 1, 0, NULL, NULL);
	return unused;
}

static void *sleep_aio(void *unused)
{
	aio_context_t context = 0;
	struct io_event event;

	check(syscall(SYS_io_setup, 8, &context), "io_setup");
	will_sleep("aio", SYS_io_getevents, CLOCK_MONOTONIC, LONG_NS);
	syscall(SYS_io_getevents, context, 1, 1, &event, &long_time);
	return unused;
}

static void *sleep_sigsuspend(void *unused)
{
	uint64_t normal = 1ull << (SIGUSR1 - 1) | 1ull << (SIGALRM - 1) | 1ull << (SIGRTMAX - 1);
	/* The two others are pending or come all the time. */
	uint64_t temporary = 1ull << (SIGRTMAX - 2) | 1ull << (SIGUSR1 - 1) | 1ull << (SIGALRM - 1);

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &normal, NULL, 8);
	printf("sigsuspend_masks %llu %llu\n", (unsigned long long)normal,
	       (unsigned long long)temporary);
	will_sleep("sigsuspend", SYS_rt_sigsuspend, CLOCK_MONOTONIC, 0);
	syscall(SYS_rt_sigsuspend, &temporary, 8);
	return unused;
}

/* A thread with properties of its own. */
static void *sleep_special(void *unused)
{
	static char stack[ALTSTACK_BYTES];
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { .len = 1, .filter = &allow };
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sched_param parameter = { .sched_priority = 0 };

	check(unshare(CLONE_FS | CLONE_FILES), "unshare");
	umask(027);
	alternate.ss_flags = SS_AUTODISARM_BIT;
	check(sigaltstack(&alternate, NULL), "sigaltstack");
	printf("special_altstack %lu %lu %u\n", (unsigned long)stack, sizeof(stack),
	       SS_AUTODISARM_BIT);
	check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
	check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
	check(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), "seccomp");
	check(sched_setscheduler(0, SCHED_BATCH, &parameter), "SCHED_BATCH");
	check(setpriority(PRIO_PROCESS, 0, 7), "nice");
	check(prctl(PR_SET_TIMERSLACK, 54321, 0, 0, 0), "timer slack");
	check(prctl(PR_SET_PDEATHSIG, SIGRTMIN, 0, 0, 0), "pdeathsig");
	check(prctl(PR_SET_NAME, "special one"), "name");
	check(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, ~0ul / 2, 0),
	      "user dispatch");
	printf("special %d %d %d\n", my_tid(), prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), SIGRTMIN);
	will_sleep("special", SYS_futex, CLOCK_MONOTONIC, 0);
	syscall(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
	return unused;
}

static void *(*const sleepers[])(void *) = {
	sleep_nanosleep, sleep_boottime, sleep_realtime,     sleep_futex,
	sleep_poll,	 sleep_ppoll,	 sleep_select,	     sleep_futex_realtime,
	sleep_epoll,	 sleep_recv,	 sleep_sigtimedwait, sleep_futex_forever,
	sleep_aio,	 sleep_mq,	 sleep_semtimedop,   sleep_sigsuspend,
	sleep_special,
};
#define SLEEPERS (sizeof(sleepers) / sizeof(sleepers[0]))

static void start_sleepers(void)
{
	static pthread_t threads[SLEEPERS], cpu_sleeper;
	unsigned int i;

	/* All of them, the CPU clock's, and the main thread. */
	pthread_barrier_init(&started, NULL, SLEEPERS + 2);
	for (i = 0; i < SLEEPERS; i++) {
		if (pthread_create(&threads[i], NULL, sleepers[i], NULL))
			die("pthread_create");
	}
	if (pthread_create(&cpu_sleeper, NULL, sleep_cpu, &threads[0]))
		die("pthread_create");
	pthread_barrier_wait(&started);
}

/* --- the process --- */

static void handler(int signo, siginfo_t *info, void *context)
{
	(void)signo;
	(void)info;
	(void)context;
}

struct kernel_sigaction {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

static void set_signals(void)
{
	static char stack[ALTSTACK_BYTES];
	stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_RESTART };
	uint64_t blocked = 1ull << (SIGUSR1 - 1) | 1ull << (SIGUSR2 - 1) | 1ull << (SIGALRM - 1);

	sigaddset(&action.sa_mask, SIGTERM);
	sigaddset(&action.sa_mask, SIGRTMAX);
	sigaction(SIGUSR1, &action, NULL);
	action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESETHAND;
	sigaction(SIGRTMIN + 3, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
	check(sigaltstack(&alternate, NULL), "sigaltstack");
	printf("altstack %lu %lu\n", (unsigned long)stack, sizeof(stack));
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, 8);
	kill(getpid(), SIGUSR1);
	syscall(SYS_tgkill, getpid(), my_tid(), SIGUSR2);
}

/* Late, as the C library sets some of its own with the first threads. */
static void say_dispositions(void)
{
	struct kernel_sigaction found;
	int i;

	for (i = 1; i <= 64; i++) {
		check(syscall(SYS_rt_sigaction, i, NULL, &found, 8), "rt_sigaction");
		printf("sigaction %d %lu %lu %lu %lu\n", i, (unsigned long)found.handler,
		       found.flags, (unsigned long)found.restorer, (unsigned long)found.mask);
	}
}

static int make_timer(clockid_t clock, int notify, int signo, long value, pid_t tid)
{
	struct sigevent event = { .sigev_notify = notify, .sigev_signo = signo };
	int id;

	event.sigev_value.sival_ptr = (void *)value;
	event._sigev_un._tid = tid;
	check(syscall(SYS_timer_create, clock, &event, &id), "timer_create");
	return id;
}

static void arm_timer(int id, clockid_t clock, int seconds, int interval_s, int flags)
{
	struct itimerspec set = { .it_value = { seconds, 1000 }, .it_interval = { interval_s, 0 } };
	struct itimerspec found;

	if (flags & TIMER_ABSTIME)
		set.it_value.tv_sec += now_ns(clock) / NS_PER_S;
	check(syscall(SYS_timer_settime, id, flags, &set, NULL), "timer_settime");
	check(syscall(SYS_timer_gettime, id, &found), "timer_gettime");
	printf("timer %d %d %llu %llu %llu\n", id, clock,
	       now_ns(clock) + found.it_value.tv_sec * NS_PER_S + found.it_value.tv_nsec,
	       found.it_value.tv_sec * NS_PER_S + found.it_value.tv_nsec,
	       found.it_interval.tv_sec * NS_PER_S + found.it_interval.tv_nsec);
}

static void set_timers(void)
{
	struct itimerval real = { .it_value = { 500, 0 }, .it_interval = { 3, 0 } };
	struct itimerval virtual = { .it_value = { 600, 0 }, .it_interval = { 4, 0 } };
	struct itimerval prof = { .it_value = { 700, 0 }, .it_interval = { 5, 0 } };
	struct itimerspec often = { .it_value = { 0, 1000000 }, .it_interval = { 0, 1000000 } };
	int id, i;

	check(setitimer(ITIMER_REAL, &real, NULL), "ITIMER_REAL");
	printf("itimer_real_deadline %llu\n", now_ns(CLOCK_MONOTONIC) + 500 * NS_PER_S);
	check(setitimer(ITIMER_VIRTUAL, &virtual, NULL), "ITIMER_VIRTUAL");
	check(setitimer(ITIMER_PROF, &prof, NULL), "ITIMER_PROF");
	arm_timer(make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 0x1234567890l, 0),
		  CLOCK_MONOTONIC, 300, 7, 0);
	arm_timer(make_timer(CLOCK_REALTIME, SIGEV_THREAD_ID, SIGRTMIN + 2, 77, my_tid()),
		  CLOCK_REALTIME, 400, 0, TIMER_ABSTIME);
	arm_timer(make_timer(CLOCK_BOOTTIME, SIGEV_NONE, 0, 0, 0), CLOCK_BOOTTIME, 410, 2, 0);
	arm_timer(make_timer(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 2, 1, 0),
		  CLOCK_PROCESS_CPUTIME_ID, 420, 0, 0);
	arm_timer(make_timer(CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, SIGRTMIN + 2, 1, 0),
		  CLOCK_THREAD_CPUTIME_ID, 430, 0, 0);
	/* Fires all the time into a blocked signal, and overruns. */
	id = make_timer(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGALRM, 2, 0);
	check(syscall(SYS_timer_settime, id, 0, &often, NULL), "timer_settime");
	printf("overrunning_timer %d\n", id);
	for (i = 0; i < SPARE_TIMERS; i++)
		make_timer(CLOCK_TAI, SIGEV_SIGNAL, SIGRTMIN + 1, i, 0);
	printf("spare_timers %d\n", SPARE_TIMERS);
}

static void set_limits(void)
{
	struct rlimit files = { 4567, 4568 }, core = { 4096, 8192 }, stack = { 1 << 20, 1 << 21 };

	check(setrlimit(RLIMIT_NOFILE, &files), "RLIMIT_NOFILE");
	check(setrlimit(RLIMIT_CORE, &core), "RLIMIT_CORE");
	check(setrlimit(RLIMIT_STACK, &stack), "RLIMIT_STACK");
}

static long compat_call(long number, long first, long second, long third)
{
	long result;

	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(number), "b"(first), "c"(second), "d"(third)
			 : "memory", "r8", "r9", "r10", "r11");
	return result;
}

static void set_abi(void)
{
	uint32_t *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int *clear_child_tid = NULL;
	long status;

	if (low == MAP_FAILED)
		die("mmap");
	low[0] = (uint32_t)(uintptr_t)low;
	status = compat_call(NR_COMPAT_SET_ROBUST_LIST, (long)low, COMPAT_ROBUST_HEAD_BYTES, 0);
	if (status == 0)
		status = compat_call(NR_COMPAT_GET_ROBUST_LIST, 0, (long)(low + 8),
				     (long)(low + 9));
	printf("compat_robust_list %u\n", status ? 0 : low[8]);
	check(prctl(PR_SET_PDEATHSIG, SIGTERM, 0, 0, 0), "pdeathsig");
	check(prctl(PR_SET_TIMERSLACK, 123456, 0, 0, 0), "timer slack");
	check(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper");
	check(prctl(PR_SET_NAME, "kernel (state)"), "name");
	check(personality(ADDR_NO_RANDOMIZE | UNAME26), "personality");
	check(prctl(PR_GET_TID_ADDRESS, &clear_child_tid, 0, 0, 0), "tid address");
	printf("clear_child_tid %lu\n", (unsigned long)clear_child_tid);
	printf("timer_slack %d\n", prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
	umask(031);
}

static void write_text(const char *path, const char *text)
{
	int fd = check(open(path, O_WRONLY | O_CLOEXEC), path);

	check(write(fd, text, strlen(text)), path);
	close(fd);
}

static void set_memory(void)
{
	struct user_desc entry = { .entry_number = 2, .base_addr = 0x1000, .limit = 0xff,
				   .seg_32bit = 1, .limit_in_pages = 1, .useable = 1 };
	unsigned char table[64] = {};
	int length, i;

	check(syscall(SYS_modify_ldt, 1, &entry, sizeof(entry)), "modify_ldt");
	length = check(syscall(SYS_modify_ldt, 0, table, sizeof(table)), "modify_ldt");
	printf("ldt ");
	for (i = 0; i < length; i++)
		printf("%02x", table[i]);
	printf("\npkey %d\n", pkey_alloc(0, 0));
	check(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0),
	      "membarrier");
	write_text("/proc/self/coredump_filter", "0x17");
	write_text("/proc/self/oom_score_adj", "321");
	check(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "thp");
	check(mlockall(MCL_FUTURE), "mlockall");
	printf("vdso %lu\n", getauxval(AT_SYSINFO_EHDR));
	check(prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0), "mdwe");
	printf("brk %lu\n", (unsigned long)sbrk(0));
}

static void name_fd(const char *kind, int fd)
{
	printf("fd %s %ld\n", kind, check(fd, kind));
}

static void open_files(const char *folder)
{
	struct f_owner_ex owner = { F_OWNER_PID, getpid() };
	char path[4096];
	sigset_t set;
	int fd, pair[2], i;

	snprintf(path, sizeof(path), "%s/file", folder);
	fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	name_fd("regular", fd);
	check(write(fd, "0123456789", 10), "write");
	lseek(fd, 7, SEEK_SET);
	flock(fd, LOCK_SH);
	name_fd("duplicate", dup(fd));
	name_fd("reopened", open(path, O_RDONLY | O_NONBLOCK));
	name_fd("o_path", open(path, O_PATH));
	unlink(path);
	name_fd("folder", open(folder, O_RDONLY | O_DIRECTORY));
	check(pipe2(pair, O_NONBLOCK), "pipe");
	name_fd("pipe_read", pair[0]);
	name_fd("pipe_write", pair[1]);
	check(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), "socketpair");
	fcntl(pair[0], F_SETOWN_EX, &owner);
	fcntl(pair[0], F_SETSIG, SIGRTMIN + 5);
	name_fd("socket", pair[0]);
	name_fd("socket_peer", pair[1]);
	name_fd("eventfd", eventfd(5, EFD_CLOEXEC));
	name_fd("epoll", epoll_create1(0));
	name_fd("timerfd", timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	sigemptyset(&set);
	name_fd("signalfd", signalfd(-1, &set, 0));
	name_fd("inotify", inotify_init1(0));
	name_fd("memfd", memfd_create("some name", MFD_CLOEXEC));
	name_fd("null", open("/dev/null", O_RDWR));
	name_fd("zero", open("/dev/zero", O_RDONLY));
	name_fd("full", open("/dev/full", O_WRONLY));
	name_fd("random", open("/dev/random", O_RDONLY));
	name_fd("urandom", open("/dev/urandom", O_RDONLY));
	name_fd("pidfd", syscall(SYS_pidfd_open, getpid(), 0));
	name_fd("proc", open("/proc/self/status", O_RDONLY));
	name_fd("namespace", open("/proc/self/ns/net", O_RDONLY));
	name_fd("high", fcntl(fd, F_DUPFD_CLOEXEC, 1234));
	for (i = 0; i < 2; i++)
		name_fd("tty", posix_openpt(O_RDWR | O_NOCTTY));
}

static void make_ipc(void)
{
	struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 64 };
	struct sembuf up = { .sem_op = 1, .sem_flg = SEM_UNDO };
	char name[64];

	semaphores = check(semget(IPC_PRIVATE, 2, 0600), "semget");
	check(semop(semaphores, &up, 1), "semop");
	snprintf(name, sizeof(name), "/kernel_state.%d", getpid());
	queue = check(mq_open(name, O_RDONLY | O_CREAT | O_CLOEXEC, 0600, &attributes), "mq_open");
	mq_unlink(name);
	name_fd("mqueue", queue);
}

/* A child with another exit signal and a set_child_tid; it waits until it is killed. */
static pid_t start_child(void)
{
	static int set_tid;
	pid_t child = syscall(SYS_clone, CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGUSR2, NULL,
			      NULL, &set_tid, 0);

	if (check(child, "clone") == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		for (;;)
			pause();
	}
	printf("child %d %d %lu\n", child, SIGUSR2, (unsigned long)&set_tid);
	return child;
}

static void *end_at_once(void *unused)
{
	return unused;
}

/* Replaces itself as a shell would. */
static void fork_and_exec(void)
{
	pid_t child = check(fork(), "fork");

	if (child == 0) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	waitpid(child, NULL, 0);
	printf("forked %d\n", child);
}

static void obey(void)
{
	char word[32];
	pthread_t thread;

	while (fgets(word, sizeof(word), stdin)) {
		if (!strcmp(word, "fork\n")) {
			fork_and_exec();
		} else if (!strcmp(word, "thread\n")) {
			pthread_create(&thread, NULL, end_at_once, NULL);
			pthread_join(thread, NULL);
			printf("joined\n");
		}
		fflush(stdout);
	}
}

static void *outlive(void *unused)
{
	printf("thread %d\nREADY\n", my_tid());
	fflush(stdout);
	obey();
	exit(0);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	pid_t child;

	if (argc < 2)
		return 2;
	setvbuf(stdout, NULL, _IOFBF, 1 << 16);
	if (argc > 2 && !strcmp(argv[2], "leaderless")) {
		pthread_create(&thread, NULL, outlive, NULL);
		pthread_exit(NULL);
	}
	set_limits();
	open_files(argv[1]);
	make_ipc();
	set_abi();
	child = start_child();
	set_signals();
	start_sleepers();
	set_timers();
	set_memory();
	say_dispositions();
	printf("READY\n");
	fflush(stdout);
	obey();
	kill(child, SIGKILL);
	semctl(semaphores, 0, IPC_RMID);
	return 0;
}

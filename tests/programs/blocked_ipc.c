/* Waits on what cannot be restored yet: System V, AIO, message queues, inotify, children, a terminal. */
#include "blocked.h"
#include <linux/aio_abi.h>
#include <mqueue.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/wait.h>
#include <termios.h>

static int sem = -1, queue = -1, watcher, master, terminal;
static mqd_t posix_queue;
static char queue_name[64], buffer[8192];
static aio_context_t aio;
static struct io_event events[1];
static struct timespec absolute;
static pid_t child;
static int status;

static void setup_sem(void)
{
	sem = semget(IPC_PRIVATE, 1, 0600);
	REQUIRE(sem >= 0);
	keep(&limit_ts, sizeof(limit_ts));
}

static struct sembuf take = { 0, -1, 0 };

static long sem_limit(void)
{
	return semtimedop(sem, &take, 1, &limit_ts);
}

static long sem_forever(void)
{
	return semop(sem, &take, 1);
}

static void sem_post_one(void)
{
	REQUIRE(!semctl(sem, 0, SETVAL, 1));
}

static void remove_sem(void)
{
	semctl(sem, 0, IPC_RMID);
}

static void setup_queue(void)
{
	queue = msgget(IPC_PRIVATE, 0600);
	REQUIRE(queue >= 0);
}

static long receive(void)
{
	return msgrcv(queue, buffer, 100, 3, 0);
}

static void send_message(void)
{
	struct {
		long type;
		char text[8];
	} message = { 3, "seven.." };

	REQUIRE(!msgsnd(queue, &message, 8, 0));
}

static void remove_queue(void)
{
	check_str("message", "seven..", buffer + sizeof(long));
	msgctl(queue, IPC_RMID, 0);
}

static void setup_mq(void)
{
	struct mq_attr attr = { .mq_maxmsg = 4, .mq_msgsize = 64 };

	snprintf(queue_name, sizeof(queue_name), "/ckpt-test-%d", getpid());
	posix_queue = mq_open(queue_name, O_CREAT | O_RDWR, 0600, &attr);
	if (posix_queue < 0)
		skip_kernel("POSIX message queues");
	mq_unlink(queue_name);
}

static long mq_limit(void)
{
	absolute = from_now(CLOCK_REALTIME, real_limit_ns);
	return mq_timedreceive(posix_queue, buffer, 64, 0, &absolute);
}

static long mq_forever(void)
{
	return mq_receive(posix_queue, buffer, 64, 0);
}

static void mq_wake(void)
{
	REQUIRE(!mq_send(posix_queue, "hello", 5, 1));
}

static void setup_aio(void)
{
	if (syscall(SYS_io_setup, 8, &aio))
		skip_kernel("AIO");
	keep(&limit_ts, sizeof(limit_ts));
}

static long aio_limit(void)
{
	return syscall(SYS_io_getevents, aio, 1, 1, events, &limit_ts);
}

static long aio_forever(void)
{
	return syscall(SYS_io_getevents, aio, 1, 1, events, 0);
}

static void aio_wake(void)
{
	char path[600];
	struct iocb block = { .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_buf = (uint64_t)buffer, .aio_nbytes = 8 };
	struct iocb *blocks[] = { &block };

	selfcheck_path(path, sizeof(path), "aio");
	block.aio_fildes = (unsigned)open(path, O_CREAT | O_RDWR, 0600);
	REQUIRE(syscall(SYS_io_submit, aio, 1, blocks) == 1);
}

static void setup_inotify(void)
{
	watcher = inotify_init1(0);
	REQUIRE(watcher >= 0 && inotify_add_watch(watcher, selfcheck_dir, IN_DELETE) >= 0);
}

static long read_inotify(void)
{
	return read(watcher, buffer, sizeof(buffer)) > 0;
}

static void touch(void)
{
	char path[600];

	selfcheck_path(path, sizeof(path), "touched");
	selfcheck_publish("touched", "");
	unlink(path);
}

/* The child ends when told to go on, a moment later than the parent. */
static void setup_child(void)
{
	char path[600];

	selfcheck_path(path, sizeof(path), "release");
	child = fork();
	if (!child) {
		for (int i = 0; i < 10000 && access(path, F_OK); i++)
			sleep_ms(2);
		_exit(42);
	}
	REQUIRE(child > 0);
}

static long wait_child(void)
{
	return syscall(SYS_wait4, child, &status, 0, 0) == child;
}

static long waitid_child(void)
{
	siginfo_t info = { 0 };
	long rc = syscall(SYS_waitid, P_PID, child, &info, WEXITED, 0);

	status = info.si_status << 8;
	return rc == 0 && info.si_pid == child;
}

static void release_child(void)
{
	selfcheck_publish("release", "");
}

static void check_child(void)
{
	check_int("exit status of the child", 42, WEXITSTATUS(status));
}

static void setup_terminal(void)
{
	struct termios raw;

	master = posix_openpt(O_RDWR | O_NOCTTY);
	REQUIRE(master >= 0 && !grantpt(master) && !unlockpt(master));
	terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
	REQUIRE(terminal >= 0 && !tcgetattr(terminal, &raw));
	raw.c_lflag &= ~(tcflag_t)ECHO;
	REQUIRE(!tcsetattr(terminal, TCSANOW, &raw));
}

static long read_terminal(void)
{
	return read(terminal, buffer, sizeof(buffer));
}

static void type_line(void)
{
	REQUIRE(write(master, "typed\n", 6) == 6);
}

static const struct blocked_case cases[] = {
	{ "semtimedop", SYS_semtimedop, LASTS, -1, EAGAIN, sem_limit, setup_sem, 0, remove_sem },
	{ "semop", SYS_semtimedop, FOREVER, 0, 0, sem_forever, setup_sem, sem_post_one, remove_sem },
	{ "msgrcv", SYS_msgrcv, FOREVER, 8, 0, receive, setup_queue, send_message, remove_queue },
	{ "mq_timedreceive", SYS_mq_timedreceive, UNTIL_REALTIME, -1, ETIMEDOUT, mq_limit, setup_mq, 0, 0 },
	{ "mq_receive", SYS_mq_timedreceive, FOREVER, 5, 0, mq_forever, setup_mq, mq_wake, 0 },
	{ "io_getevents", SYS_io_getevents, LASTS, 0, 0, aio_limit, setup_aio, 0, 0 },
	{ "io_getevents_forever", SYS_io_getevents, FOREVER, 1, 0, aio_forever, setup_aio, aio_wake, 0 },
	{ "inotify", SYS_read, FOREVER, 1, 0, read_inotify, setup_inotify, touch, 0 },
	{ "wait4", SYS_wait4, FOREVER, 1, 0, wait_child, setup_child, release_child, check_child },
	{ "waitid", SYS_waitid, FOREVER, 1, 0, waitid_child, setup_child, release_child, check_child },
	{ "terminal", SYS_read, FOREVER, 6, 0, read_terminal, setup_terminal, type_line, 0 },
};

BLOCKED_PROGRAM(cases)

"""What the arguments of each system call of x86_64 are. Source: include/linux/syscalls.h, 6.18.

A line is a call and the kinds of its arguments. A kind is one of `call_args.KINDS`, or the name of
a set of `call_flags.SETS` with a colon in front. i386 calls of the same name have the same ones.
"""

from __future__ import annotations

import functools
from typing import Final

_TABLE: Final = """
read fd ptr size
write fd ptr size
open path :open mode
close fd
stat path ptr
fstat fd ptr
lstat path ptr
poll pollfds uint ms
lseek fd int :whence
mmap ptr size :prot :map fd hex
mprotect ptr size :prot
munmap ptr size
brk ptr
rt_sigaction sig ptr ptr size
rt_sigprocmask :how sigset ptr size
rt_sigreturn
ioctl fd :ioctl ptr
pread64 fd ptr size int
pwrite64 fd ptr size int
readv fd ptr uint
writev fd ptr uint
access path :access
pipe ptr
select uint fdset fdset fdset timeval
sched_yield
mremap ptr size size :mremap ptr
msync ptr size :msync
mincore ptr size ptr
madvise ptr size :madvise
shmget hex size :ipc
shmat int ptr hex
shmctl int int ptr
dup fd
dup2 fd int
pause
nanosleep timespec ptr
getitimer :itimer ptr
alarm uint
setitimer :itimer ptr ptr
getpid
sendfile fd fd ptr size
socket :family :socket int
connect fd sockaddr uint
accept fd ptr ptr
sendto fd ptr size :msg sockaddr uint
recvfrom fd ptr size :msg ptr ptr
sendmsg fd ptr :msg
recvmsg fd ptr :msg
shutdown fd :shutdown
bind fd sockaddr uint
listen fd int
getsockname fd ptr ptr
getpeername fd ptr ptr
socketpair :family :socket int ptr
setsockopt fd :sol int ptr uint
getsockopt fd :sol int ptr ptr
clone :clone ptr ptr ptr ptr
fork
vfork
execve path ptr ptr
exit int
wait4 pid ptr :wait ptr
kill pid sig
uname ptr
semget hex int :ipc
semop int sembuf uint
semctl int int int ptr
shmdt ptr
msgget hex :ipc
msgsnd int ptr size :ipc
msgrcv int ptr size int :ipc
msgctl int int ptr
fcntl fd :fcntl hex
flock fd :lock
fsync fd
fdatasync fd
truncate path int
ftruncate fd int
getdents fd ptr size
getcwd ptr size
chdir path
fchdir fd
rename path path
mkdir path mode
rmdir path
creat path mode
link path path
unlink path
symlink path path
readlink path ptr size
chmod path mode
fchmod fd mode
chown path int int
fchown fd int int
lchown path int int
umask mode
gettimeofday ptr ptr
getrlimit :rlimit ptr
getrusage int ptr
sysinfo ptr
times ptr
ptrace :ptrace pid ptr ptr
getuid
syslog int ptr int
getgid
setuid int
setgid int
geteuid
getegid
setpgid pid pid
getppid
getpgrp
setsid
setreuid int int
setregid int int
getgroups int ptr
setgroups int ptr
setresuid int int int
getresuid ptr ptr ptr
setresgid int int int
getresgid ptr ptr ptr
getpgid pid
setfsuid int
setfsgid int
getsid pid
capget ptr ptr
capset ptr ptr
rt_sigpending ptr size
rt_sigtimedwait sigset ptr timespec size
rt_sigqueueinfo pid sig ptr
rt_sigsuspend sigset size
sigaltstack ptr ptr
utime path ptr
mknod path mode hex
uselib path
personality hex
ustat hex ptr
statfs path ptr
fstatfs fd ptr
sysfs int hex hex
getpriority int int
setpriority int int int
sched_setparam pid ptr
sched_getparam pid ptr
sched_setscheduler pid :policy ptr
sched_getscheduler pid
sched_get_priority_max :policy
sched_get_priority_min :policy
sched_rr_get_interval pid ptr
mlock ptr size
munlock ptr size
mlockall :mcl
munlockall
vhangup
modify_ldt int ptr size
pivot_root path path
_sysctl ptr
prctl :prctl hex hex hex hex
arch_prctl :arch_prctl ptr
adjtimex ptr
setrlimit :rlimit ptr
chroot path
sync
acct path
settimeofday ptr ptr
mount path path path hex ptr
umount2 path hex
swapon path hex
swapoff path
reboot hex hex hex ptr
sethostname ptr size
setdomainname ptr size
iopl int
ioperm hex hex int
create_module path size
init_module ptr size ptr
delete_module path hex
get_kernel_syms ptr
query_module path int ptr size ptr
quotactl hex path int ptr
nfsservctl int ptr ptr
getpmsg
putpmsg
afs_syscall
tuxcall
security
gettid
readahead fd int size
setxattr path path ptr size hex
lsetxattr path path ptr size hex
fsetxattr fd path ptr size hex
getxattr path path ptr size
lgetxattr path path ptr size
fgetxattr fd path ptr size
listxattr path ptr size
llistxattr path ptr size
flistxattr fd ptr size
removexattr path path
lremovexattr path path
fremovexattr fd path
tkill pid sig
time ptr
futex ptr :futex uint ptr ptr uint
sched_setaffinity pid size ptr
sched_getaffinity pid size ptr
set_thread_area ptr
io_setup uint ptr
io_destroy ptr
io_getevents ptr int int ptr timespec
io_submit ptr int ptr
io_cancel ptr ptr ptr
get_thread_area ptr
lookup_dcookie hex ptr size
epoll_create int
epoll_ctl_old fd int int ptr
epoll_wait_old fd ptr int
remap_file_pages ptr size :prot size hex
getdents64 fd ptr size
set_tid_address ptr
restart_syscall
semtimedop int sembuf uint timespec
fadvise64 fd int size int
timer_create :clock ptr ptr
timer_settime int :timer itimerspec ptr
timer_gettime int ptr
timer_getoverrun int
timer_delete int
clock_settime :clock timespec
clock_gettime :clock ptr
clock_getres :clock ptr
clock_nanosleep :clock :timer timespec ptr
exit_group int
epoll_wait fd ptr int ms
epoll_ctl fd :epoll_op fd epoll_event
tgkill pid pid sig
utimes path ptr
vserver
mbind ptr size int ptr size hex
set_mempolicy int ptr size
get_mempolicy ptr ptr size ptr hex
mq_open path :open mode ptr
mq_unlink path
mq_timedsend fd ptr size uint timespec
mq_timedreceive fd ptr size ptr timespec
mq_notify fd ptr
mq_getsetattr fd ptr ptr
kexec_load ptr size ptr hex
waitid :idtype pid ptr :wait ptr
add_key path path ptr size int
request_key path path path int
keyctl int hex hex hex hex
ioprio_set int int hex
ioprio_get int int
inotify_init
inotify_add_watch fd path hex
inotify_rm_watch fd int
migrate_pages pid size ptr ptr
openat dirfd path :open mode
mkdirat dirfd path mode
mknodat dirfd path mode hex
fchownat dirfd path int int :at
futimesat dirfd path ptr
newfstatat dirfd path ptr :at
unlinkat dirfd path :at
renameat dirfd path dirfd path
linkat dirfd path dirfd path :at
symlinkat path dirfd path
readlinkat dirfd path ptr size
fchmodat dirfd path mode
faccessat dirfd path :access
pselect6 uint fdset fdset fdset timespec ptr
ppoll pollfds uint timespec sigset size
unshare :clone
set_robust_list ptr size
get_robust_list pid ptr ptr
splice fd ptr fd ptr size :splice
tee fd fd size :splice
sync_file_range fd int int hex
vmsplice fd ptr uint :splice
move_pages pid size ptr ptr ptr hex
utimensat dirfd path ptr :at
epoll_pwait fd ptr int ms sigset size
signalfd fd sigset size
timerfd_create :clock hex
eventfd uint
fallocate fd hex int int
timerfd_settime fd :timer itimerspec ptr
timerfd_gettime fd ptr
accept4 fd ptr ptr :socket
signalfd4 fd sigset size :open
eventfd2 uint :eventfd
epoll_create1 :epoll
dup3 fd int :open
pipe2 ptr :open
inotify_init1 :open
preadv fd ptr uint int
pwritev fd ptr uint int
rt_tgsigqueueinfo pid pid sig ptr
perf_event_open ptr pid int fd hex
recvmmsg fd ptr uint :msg timespec
fanotify_init hex :open
fanotify_mark fd hex hex dirfd path
prlimit64 pid :rlimit ptr ptr
name_to_handle_at dirfd path ptr ptr :at
open_by_handle_at fd ptr :open
clock_adjtime :clock ptr
syncfs fd
sendmmsg fd ptr uint :msg
setns fd :clone
getcpu ptr ptr
process_vm_readv pid ptr uint ptr uint hex
process_vm_writev pid ptr uint ptr uint hex
kcmp pid pid int hex hex
finit_module fd path hex
sched_setattr pid ptr hex
sched_getattr pid ptr size hex
renameat2 dirfd path dirfd path hex
seccomp uint hex ptr
getrandom ptr size :random
memfd_create path :memfd
kexec_file_load fd fd size path hex
bpf int ptr size
execveat dirfd path ptr ptr :at
userfaultfd :open
membarrier :membarrier hex int
mlock2 ptr size hex
copy_file_range fd ptr fd ptr size hex
preadv2 fd ptr uint int int hex
pwritev2 fd ptr uint int int hex
pkey_mprotect ptr size :prot int
pkey_alloc hex hex
pkey_free int
statx dirfd path :at hex ptr
io_pgetevents ptr int int ptr timespec ptr
rseq ptr size hex hex
uretprobe
pidfd_send_signal fd sig ptr hex
io_uring_setup uint ptr
io_uring_enter fd uint uint :uring ptr size
io_uring_register fd uint ptr uint
open_tree dirfd path hex
move_mount dirfd path dirfd path hex
fsopen path hex
fsconfig fd uint path ptr int
fsmount fd hex hex
fspick dirfd path hex
pidfd_open pid hex
clone3 clone_args size
close_range uint uint hex
openat2 dirfd path ptr size
pidfd_getfd fd int hex
faccessat2 dirfd path :access :at
process_madvise fd ptr size :madvise hex
epoll_pwait2 fd ptr int timespec sigset size
mount_setattr dirfd path hex ptr size
quotactl_fd fd hex int ptr
landlock_create_ruleset ptr size hex
landlock_add_rule fd int ptr hex
landlock_restrict_self fd hex
memfd_secret hex
process_mrelease fd hex
futex_waitv futexes uint hex timespec :clock
set_mempolicy_home_node ptr size hex hex
cachestat fd ptr ptr hex
fchmodat2 dirfd path mode :at
map_shadow_stack ptr size hex
futex_wake ptr hex int :futex2
futex_wait ptr hex hex :futex2 timespec :clock
futex_requeue ptr hex int int
statmount ptr ptr size hex
listmount ptr ptr size hex
lsm_get_self_attr uint ptr ptr hex
lsm_set_self_attr uint ptr size hex
lsm_list_modules ptr ptr hex
mseal ptr size hex
setxattrat dirfd path :at path ptr size
getxattrat dirfd path :at path ptr size
listxattrat dirfd path :at ptr size
removexattrat dirfd path :at path
open_tree_attr dirfd path hex ptr size
file_getattr dirfd path ptr size :at
file_setattr dirfd path ptr size :at
"""


@functools.cache
def _signatures() -> dict[str, tuple[str, ...]]:
    lines = (line.split() for line in _TABLE.split("\n") if line)
    return {name: tuple(kinds) for name, *kinds in lines}


def find_kinds(name: str) -> tuple[str, ...] | None:
    """Return the kinds of a call's arguments; None for a call that is not listed.

    The calls of i386 with 64-bit times have the arguments of those without.
    """
    return _signatures().get(name.removesuffix("_time64"))


def all_signatures() -> dict[str, tuple[str, ...]]:
    """Return a copy of the whole table."""
    return dict(_signatures())

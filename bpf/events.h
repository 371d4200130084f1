/*
 * Events of watched processes (events.bpf.c). `watched` goes by tgid of the initial pid namespace;
 * its value is the level of the pid namespace in which records number the tasks.
 */
#ifndef CKPT_EVENTS_H
#define CKPT_EVENTS_H

#include "restart.h"

#define EVENTS_MAX_WATCHED 8192
#define EVENTS_RING_PAGES 256

enum events_kind {
	EVENTS_FORK = 1,
	EVENTS_EXEC = 2,
	EVENTS_EXIT = 3,
	EVENTS_RESTART_ARMED = 4,
	EVENTS_RESTART_SYSCALL = 5,
};

struct events_record {
	__u32 kind;
	__s32 tid;
	__s32 tgid;
	__s32 other_tid;
	__s32 other_tgid;
	__s32 syscall;
	__u64 time_ns;
	struct restart restart;
};

#endif

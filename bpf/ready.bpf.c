/*
 * Iterator over the epoll instances among the descriptors of one task (limited by the link): the
 * items on their ready lists. An edge-triggered item that is not there has been reported. Idempotent.
 */
#include "read.h"
#include "ready.h"

BPF_ITER(task_file)
{
	struct seq_file *seq = ctx->meta->seq;
	void *file = ctx->file, *operations, *instance, *item;
	struct ready_record e = {};
	__u64 head, node;
	int i;

	if (!ctx->task || !file)
		return 0;
	operations = (void *)READ(file, file, f_op);
	if (!SYMBOL(ep_eventpoll_release) ||
	    READ(file_operations, operations, release) != SYMBOL(ep_eventpoll_release))
		return 0;
	instance = (void *)READ(file, file, private_data);
	head = (__u64)ADDRESS(eventpoll, instance, rdllist);
	node = READ(eventpoll, instance, rdllist.next);
	e.epoll = (__u64)file;
	for (i = 0; i < READY_MOST && node && node != head; i++) {
		item = (void *)node - OFFSET(epitem, rdllink);
		e.file = READ(epitem, item, ffd.file);
		e.fd = READ(epitem, item, ffd.fd);
		bpf_seq_write(seq, &e, sizeof(e));
		node = READ_AT(__u64, node);
	}
	e.file = 0;
	e.fd = node == head ? READY_END_WHOLE : READY_END_MORE;
	bpf_seq_write(seq, &e, sizeof(e));
	return 0;
}

/* A thread caught inside an rseq critical section finds itself at its abort handler. */
#include "selfcheck.h"
#include <stddef.h>
#include <sys/rseq.h>

volatile long section_aborts, section_stop, section_entries, section_commits;

void *section_loop(void *);

/* rdi: the thread's struct rseq.  The section only spins, so it leaves by abort or by the stop word. */
__asm__(".section __rseq_test, \"aw\"\n.balign 32\n"
	"section_cs:\n.long 0, 0\n.quad 1f, 2f - 1f, 4f\n"
	".text\n.globl section_loop\n.type section_loop, @function\nsection_loop:\n"
	"mov section_area_of_thread@GOTPCREL(%rip), %rax\nmov (%rax), %rdi\n"
	"0: lea section_cs(%rip), %rax\nmov %rax, 8(%rdi)\n"
	"1: mov $0x1000, %rcx\n"
	"lock incq section_entries(%rip)\n"
	"3: pause\ncmpq $0, section_stop(%rip)\njne 5f\n"
	"inc %rcx\njmp 3b\n"
	"5: incq section_commits(%rip)\n"
	"2: movq $0, 8(%rdi)\nxor %eax, %eax\nret\n"
	".byte 0x0f, 0xb9, 0x3d\n.long 0x53053053\n"
	"4: lock incq section_aborts(%rip)\njmp 0b\n");

struct rseq *section_area_of_thread;

static void *thread_main(void *arg)
{
	section_area_of_thread =
		(struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	return section_loop(arg);
}

int main(int argc, char **argv)
{
	pthread_t thread;
	long aborts;

	selfcheck_begin(argc, argv);
	if (!__rseq_size)
		skip_kernel("rseq");
	REQUIRE(!pthread_create(&thread, 0, thread_main, 0));
	while (!section_entries)
		sleep_ms(1);
	aborts = section_aborts;
	selfcheck_park();
	if (section_aborts == aborts && strcmp(selfcheck_mode, "untouched"))
		fail("aborts: expected more than %ld got as many", aborts);
	section_stop = 1;
	pthread_join(thread, 0);
	check_int("commits", 1, section_commits);
	check_int("every entry but the last was aborted", section_aborts + 1, section_entries);
	return selfcheck_end();
}

/*
 * Serves requests and leaks: each one keeps its buffer, every hundredth a descriptor as well.
 * docs/debugging.md finds both by comparing two images with `ckpt-bpf diff`. Each line on standard
 * input is a number of requests; the answer is how many have been served by then.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct request {
	struct request *next;
	char body[4000];
} *history;
static long served;

static void serve(void)
{
	struct request *request = malloc(sizeof(*request));

	memset(request->body, 'x', sizeof(request->body));
	request->next = history;
	history = request;
	if (++served % 100 == 0)
		open("/dev/null", O_WRONLY);
}

int main(void)
{
	long count;

	while (scanf("%ld", &count) == 1) {
		while (count-- > 0)
			serve();
		printf("served %ld\n", served);
		fflush(stdout);
	}
	return 0;
}

/* What the loads share: a clock, the two lines that tell of a measurement, and sockets.

   "begin" is printed when the warm-up is over, and "end COUNT SECONDS" when the time is: whoever
   started the load reads the server's processor time at these moments. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const double WARMUP = 0.2; /* seconds */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void complain(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct sockaddr_in local(const char *address, int port) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    if (inet_pton(AF_INET, address, &place.sin_addr) != 1)
        complain("not an address");
    return place;
}

/* The run of a closed loop: first the warm-up, which counts nothing, then the measured time. */
struct span {
    double began, until, seconds;
    int measuring;
};

static struct span span_of(double seconds) {
    double at = now();
    struct span s = {.began = at, .until = at + WARMUP, .seconds = seconds};
    return s;
}

/* Whether the run goes on; `count` is what was done by now. */
static int goes_on(struct span *s, unsigned long long *count) {
    double at = now();
    if (at < s->until)
        return 1;
    if (!s->measuring) {
        s->measuring = 1;
        *count = 0;
        puts("begin");
        fflush(stdout);
        s->began = now();
        s->until = s->began + s->seconds;
        return 1;
    }
    printf("end %llu %.9f\n", *count, at - s->began);
    fflush(stdout);
    return 0;
}

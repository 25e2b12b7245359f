/* Shared by the loads: a clock, the two result lines, and addresses.

   The load prints "begin" after the warm-up and "end COUNT SECONDS" after the measurement; the
   parent process reads the server's CPU time at these moments. */

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
        complain("invalid IPv4 address");
    return place;
}

/* A closed-loop run: an uncounted warm-up, then the measurement. */
struct span {
    double began, until, seconds;
    int measuring;
};

static struct span span_of(double seconds) {
    double at = now();
    struct span s = {.began = at, .until = at + WARMUP, .seconds = seconds};
    return s;
}

/* Returns whether the run continues; resets *count after the warm-up and prints it at the end. */
static int keep_running(struct span *s, unsigned long long *count) {
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

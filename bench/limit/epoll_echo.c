/* An echo server in C on bare system calls: the limit that other servers are compared with.

   epoll_echo [PORT | PATH]: without a port, or with 0, the kernel chooses one; an argument with a
   slash is the path of a Unix socket. Prints "listening PORT", with port 0 for a path.

   Level-triggered epoll; each event does one recv of at most 256 KiB and sends the data at once.
   Data that the socket buffer has no room for is kept per connection, and the connection is not
   read until it is sent. Only kept data is allocated. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ROOM = 256 * 1024, BATCH = 512 };

struct kept {
    char *bytes; /* NULL if nothing is kept */
    size_t at, end;
};

static struct kept *kept; /* by descriptor */
static size_t descriptors;
static char buffer[ROOM];
static int ep;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(ep, operation, fd, &event) < 0)
        fail("epoll_ctl");
}

static void close_connection(int fd) {
    free(kept[fd].bytes);
    kept[fd].bytes = NULL;
    close(fd);
}

/* Returns the number of bytes sent; -1 if the connection is broken. */
static ssize_t put(int fd, const char *bytes, size_t length) {
    size_t done = 0;
    while (done < length) {
        ssize_t n = send(fd, bytes + done, length - done, MSG_NOSIGNAL);
        if (n >= 0)
            done += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            return -1;
    }
    return (ssize_t)done;
}

static void echo(int fd) {
    ssize_t got = recv(fd, buffer, ROOM, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        close_connection(fd);
        return;
    }
    ssize_t sent = put(fd, buffer, (size_t)got);
    if (sent < 0) {
        close_connection(fd);
        return;
    }
    if (sent < got) {
        size_t left = (size_t)(got - sent);
        if (!(kept[fd].bytes = malloc(left)))
            fail("malloc");
        memcpy(kept[fd].bytes, buffer + sent, left);
        kept[fd].at = 0;
        kept[fd].end = left;
        watch(fd, EPOLLOUT, EPOLL_CTL_MOD);
    }
}

static void flush_kept(int fd) {
    struct kept *k = &kept[fd];
    ssize_t sent = put(fd, k->bytes + k->at, k->end - k->at);
    if (sent < 0) {
        close_connection(fd);
        return;
    }
    k->at += (size_t)sent;
    if (k->at == k->end) {
        free(k->bytes);
        k->bytes = NULL;
        watch(fd, EPOLLIN, EPOLL_CTL_MOD);
    }
}

static void accept_all(int listener) {
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if ((size_t)fd >= descriptors) { /* impossible: the table covers RLIMIT_NOFILE */
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
    if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
        fail("accept4");
}

static int listen_at_path(const char *path) {
    struct sockaddr_un here = {.sun_family = AF_UNIX};
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0)
        fail("socket");
    strncpy(here.sun_path, path, sizeof here.sun_path - 1);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0)
        fail("bind");
    return listener;
}

/* Stores the bound port in *port. */
static int listen_at_port(int *port) {
    struct sockaddr_in here = {.sin_family = AF_INET};
    socklen_t length = sizeof here;
    int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    here.sin_port = htons((uint16_t)*port);
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0)
        fail("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0)
        fail("bind");
    getsockname(listener, (struct sockaddr *)&here, &length);
    *port = ntohs(here.sin_port);
    return listener;
}

int main(int argc, char **argv) {
    struct rlimit limit;
    const char *where = argc > 1 ? argv[1] : "0";
    int port = atoi(where);
    int listener = strchr(where, '/') ? listen_at_path(where) : listen_at_port(&port);

    if (listen(listener, 4096) < 0)
        fail("listen");
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    descriptors = limit.rlim_cur < 1000000 ? limit.rlim_cur : 1000000;
    if (!(kept = calloc(descriptors, sizeof *kept)))
        fail("calloc");
    if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
        fail("epoll_create1");
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);
    printf("listening %d\n", port);
    fflush(stdout);

    for (;;) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(ep, events, BATCH, -1);
        if (n < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(listener);
            else if (kept[fd].bytes)
                flush_kept(fd);
            else
                echo(fd);
        }
    }
}

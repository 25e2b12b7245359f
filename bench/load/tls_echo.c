/* Loads a TLS echo server: tls_echo PORT CONNECTIONS BYTES SECONDS.

   Each connection has one message under way and compares what comes back. */

#include "measure.h"
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>

enum { BATCH = 128 };

struct line {
    SSL *ssl;
    int fd;
    int got;
};

static char *message, *answer;
static int size;
static unsigned long long count;

static void broken(const char *what) {
    ERR_print_errors_fp(stderr);
    complain(what);
}

static void open_line(struct line *line, SSL_CTX *context, int port) {
    struct sockaddr_in there = local("127.0.0.1", port);
    int one = 1;
    line->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (line->fd < 0 || connect(line->fd, (struct sockaddr *)&there, sizeof there) < 0)
        fail("connect");
    setsockopt(line->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    line->ssl = SSL_new(context);
    if (!line->ssl || !SSL_set_fd(line->ssl, line->fd) || SSL_connect(line->ssl) != 1)
        broken("the TLS handshake failed");
    fcntl(line->fd, F_SETFL, O_NONBLOCK);
}

/* With one message under way there is always room for it: no send can be partial. */
static void say(struct line *line) {
    line->got = 0;
    if (SSL_write(line->ssl, message, size) != size)
        broken("the server does not take what is sent");
}

static void hear(struct line *line) {
    do {
        int n = SSL_read(line->ssl, answer, size - line->got);
        if (n <= 0) {
            if (SSL_get_error(line->ssl, n) == SSL_ERROR_WANT_READ)
                return;
            broken("the server closed a connection");
        }
        if (memcmp(answer, message + line->got, (size_t)n))
            complain("what came back is not what was sent");
        line->got += n;
        if (line->got == size) {
            count++;
            say(line);
        }
    } while (SSL_has_pending(line->ssl));
}

int main(int argc, char **argv) {
    if (argc != 5)
        complain("tls_echo PORT CONNECTIONS BYTES SECONDS");
    int port = atoi(argv[1]), lines = atoi(argv[2]);
    size = atoi(argv[3]);
    struct line *line = calloc((size_t)lines, sizeof *line);
    message = malloc((size_t)size);
    answer = malloc((size_t)size);
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    int ep = epoll_create1(EPOLL_CLOEXEC);
    if (!line || !message || !answer || !context || ep < 0)
        complain("no memory");
    SSL_CTX_set_read_ahead(context, 1); /* a record's head and body in one recv */
    for (int i = 0; i < size; i++)
        message[i] = (char)(i * 31 + (i >> 8));
    for (int i = 0; i < lines; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &line[i]};
        open_line(&line[i], context, port);
        if (epoll_ctl(ep, EPOLL_CTL_ADD, line[i].fd, &event) < 0)
            fail("epoll_ctl");
    }
    for (int i = 0; i < lines; i++)
        say(&line[i]);
    for (struct span run = span_of(atof(argv[4])); goes_on(&run, &count);) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(ep, events, BATCH, 100);
        for (int i = 0; i < n; i++)
            hear(events[i].data.ptr);
    }
}

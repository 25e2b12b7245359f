/* Loads a server: exchange PORT CONNECTIONS SECONDS plain|tls echo BYTES|http.

   Each connection has one message in flight. `echo` compares each echo with its message; `http`
   requests / and counts responses of the first one's length, computed from its Content-Length. */

#include "measure.h"
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>

enum { BATCH = 128, MOST = 65536 };

struct line {
    SSL *ssl; /* NULL without TLS */
    int fd;
    int got;
};

static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
static char message[MOST], due[MOST], answer[MOST];
static int message_size, due_size, comparing;
static unsigned long long count;

static void broken(const char *what) {
    ERR_print_errors_fp(stderr);
    complain(what);
}

/* Returns the number of bytes received; 0 if there are none yet. */
static int get(struct line *line, char *room, int most) {
    int n;
    if (line->ssl) {
        n = SSL_read(line->ssl, room, most);
        if (n <= 0 && SSL_get_error(line->ssl, n) == SSL_ERROR_WANT_READ)
            return 0;
    } else {
        n = (int)recv(line->fd, room, (size_t)most, 0);
        if (n < 0 && errno == EAGAIN)
            return 0;
    }
    if (n <= 0)
        broken("the server closed a connection");
    return n;
}

/* One message in flight always fits the socket buffer, so no send is partial. */
static void say(struct line *line) {
    int n = line->ssl ? SSL_write(line->ssl, message, message_size)
                      : (int)send(line->fd, message, (size_t)message_size, MSG_NOSIGNAL);
    if (n != message_size)
        broken("the socket buffer has no room for a message");
    line->got = 0;
}

static void hear(struct line *line) {
    do {
        int n = get(line, answer, due_size - line->got);
        if (!n)
            return;
        if (comparing && memcmp(answer, due + line->got, (size_t)n))
            complain("the echo differs from the message sent");
        line->got += n;
        if (line->got == due_size) {
            count++;
            say(line);
        }
    } while (line->ssl && SSL_has_pending(line->ssl));
}

static void open_line(struct line *line, SSL_CTX *context, int port) {
    struct sockaddr_in there = local("127.0.0.1", port);
    int one = 1;
    line->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (line->fd < 0 || connect(line->fd, (struct sockaddr *)&there, sizeof there) < 0)
        fail("connect");
    setsockopt(line->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!context)
        return;
    line->ssl = SSL_new(context);
    if (!line->ssl || !SSL_set_fd(line->ssl, line->fd) || SSL_connect(line->ssl) != 1)
        broken("the TLS handshake failed");
}

static void prepare_echo(int size) {
    if (size < 1 || size > MOST)
        complain("BYTES must be 1 to 65536");
    for (int i = 0; i < size; i++)
        message[i] = due[i] = (char)(i * 31 + (i >> 8));
    message_size = due_size = size;
    comparing = 1;
}

/* Sends the first request, while the socket is still blocking. */
static void prepare_http(struct line *line) {
    char *end = NULL, *length;
    int got = 0;
    message_size = (int)sizeof REQUEST - 1;
    memcpy(message, REQUEST, (size_t)message_size);
    say(line);
    while (!end) {
        got += get(line, due + got, MOST - 1 - got);
        due[got] = 0;
        end = strstr(due, "\r\n\r\n");
    }
    length = strcasestr(due, "\r\nContent-Length:");
    if (strncmp(due, "HTTP/1.1 200", 12) || !length)
        complain("the response is not 200 with a Content-Length");
    due_size = (int)(end - due) + 4 + atoi(length + strlen("\r\nContent-Length:"));
    if (due_size > MOST)
        complain("the response is longer than 65536 bytes");
    while (got < due_size)
        got += get(line, due + got, due_size - got);
}

int main(int argc, char **argv) {
    if (argc < 6)
        complain("exchange PORT CONNECTIONS SECONDS plain|tls echo BYTES|http");
    int port = atoi(argv[1]), lines = atoi(argv[2]);
    struct line *line = calloc((size_t)lines, sizeof *line);
    SSL_CTX *context = strcmp(argv[4], "tls") ? NULL : SSL_CTX_new(TLS_client_method());
    int ep = epoll_create1(EPOLL_CLOEXEC);
    if (!line || ep < 0)
        complain("no memory");
    if (context)
        SSL_CTX_set_read_ahead(context, 1); /* a record's header and body in one recv */
    for (int i = 0; i < lines; i++)
        open_line(&line[i], context, port);
    if (strcmp(argv[5], "echo"))
        prepare_http(&line[0]);
    else
        prepare_echo(argc > 6 ? atoi(argv[6]) : 0);
    for (int i = 0; i < lines; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &line[i]};
        fcntl(line[i].fd, F_SETFL, O_NONBLOCK);
        if (epoll_ctl(ep, EPOLL_CTL_ADD, line[i].fd, &event) < 0)
            fail("epoll_ctl");
        say(&line[i]);
    }
    for (struct span run = span_of(atof(argv[3])); keep_running(&run, &count);) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(ep, events, BATCH, 100);
        for (int i = 0; i < n; i++)
            hear(events[i].data.ptr);
    }
}

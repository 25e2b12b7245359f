/* Loads a UDP echo server: udp_echo PORT SOCKETS DEPTH BYTES SECONDS.

   Each socket has DEPTH datagrams in flight, sent and received in batches. A batch without an echo
   for LOST_SECONDS counts as lost and is sent again; datagrams carry the number of their batch, so
   that a late one is not counted twice. */

#include "measure.h"
#include <poll.h>

enum { MOST = 64, ROOM = 65536 };
static const double LOST_SECONDS = 0.05;

struct port {
    int fd, due;
    unsigned turn; /* number of the batch; echoes of earlier ones are late */
    double since;
};

static char *message;
static char *room; /* receive buffer of `depth` datagrams */
static int size, depth;
static unsigned long long count, lost;

static void say(struct port *p, int many) {
    struct iovec part = {.iov_base = message, .iov_len = (size_t)size};
    struct mmsghdr out[MOST];
    memset(out, 0, sizeof *out * (size_t)many);
    memcpy(message, &p->turn, sizeof p->turn);
    for (int i = 0; i < many; i++) {
        out[i].msg_hdr.msg_iov = &part;
        out[i].msg_hdr.msg_iovlen = 1;
    }
    int n = sendmmsg(p->fd, out, (unsigned)many, 0);
    if (n < 0 && errno != EAGAIN && errno != ENOBUFS)
        fail("sendmmsg");
    p->due += n > 0 ? n : 0; /* unsent ones are retried after LOST_SECONDS */
}

static void hear(struct port *p, double at) {
    struct iovec parts[MOST];
    struct mmsghdr in[MOST];
    memset(in, 0, sizeof *in * (size_t)depth);
    for (int i = 0; i < depth; i++) {
        parts[i].iov_base = room + (size_t)i * (size_t)size;
        parts[i].iov_len = (size_t)size;
        in[i].msg_hdr.msg_iov = &parts[i];
        in[i].msg_hdr.msg_iovlen = 1;
    }
    int n = recvmmsg(p->fd, in, (unsigned)depth, MSG_DONTWAIT, NULL);
    if (n < 0 && errno != EAGAIN)
        fail("recvmmsg");
    int good = 0;
    for (int i = 0; i < n; i++) {
        char *one = parts[i].iov_base;
        if ((int)in[i].msg_len != size ||
            memcmp(one + sizeof p->turn, message + sizeof p->turn, (size_t)size - sizeof p->turn))
            complain("the echo differs from the datagram sent");
        good += !memcmp(one, &p->turn, sizeof p->turn);
    }
    if (!good)
        return;
    count += (unsigned)good;
    p->due -= good;
    p->since = at;
    say(p, good);
}

static void resend_batch(struct port *p, double at) {
    lost += (unsigned)p->due;
    p->due = 0;
    p->turn++;
    p->since = at;
    say(p, depth);
}

int main(int argc, char **argv) {
    if (argc != 6)
        complain("udp_echo PORT SOCKETS DEPTH BYTES SECONDS");
    struct sockaddr_in there = local("127.0.0.1", atoi(argv[1]));
    int ports = atoi(argv[2]);
    depth = atoi(argv[3]);
    size = atoi(argv[4]);
    if (depth > MOST || size < 8 || size > ROOM)
        complain("DEPTH must be at most 64, BYTES 8 to 65536");
    struct port *port = calloc((size_t)ports, sizeof *port);
    struct pollfd *asked = calloc((size_t)ports, sizeof *asked);
    message = malloc((size_t)size);
    room = malloc((size_t)size * (size_t)depth);
    if (!port || !asked || !message || !room)
        complain("no memory");
    for (int i = 0; i < size; i++)
        message[i] = (char)(i * 31);
    for (int i = 0; i < ports; i++) {
        port[i].fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (port[i].fd < 0 || connect(port[i].fd, (struct sockaddr *)&there, sizeof there) < 0)
            fail("connect");
        asked[i].fd = port[i].fd;
        asked[i].events = POLLIN;
        resend_batch(&port[i], now());
    }
    for (struct span run = span_of(atof(argv[5])); keep_running(&run, &count);) {
        int n = poll(asked, (nfds_t)ports, 10);
        double at = now();
        for (int i = 0; i < ports; i++) {
            if (n > 0 && asked[i].revents)
                hear(&port[i], at);
            if (at - port[i].since > LOST_SECONDS)
                resend_batch(&port[i], at);
        }
    }
    if (lost)
        fprintf(stderr, "%llu datagrams were lost\n", lost);
}

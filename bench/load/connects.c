/* Repeatedly connects, has a message echoed, and closes: connects PORT AT_ONCE SECONDS.

   A connect over the loopback interface completes within the call, so it is blocking. The client
   uses several source addresses: closing first leaves its port in TIME_WAIT for a minute, and one
   address would run out of ports. */

#include "measure.h"
#include <sys/epoll.h>

enum { BATCH = 128, ADDRESSES = 32 };

static struct sockaddr_in there, here[ADDRESSES];
static const char message[64] = "hello";
static int ep;

static void begin(void) {
    static unsigned turn;
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail("socket");
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&here[turn++ % ADDRESSES], sizeof *here) < 0)
        fail("bind");
    if (connect(fd, (struct sockaddr *)&there, sizeof there) < 0)
        fail("connect");
    if (send(fd, message, sizeof message, MSG_NOSIGNAL) != sizeof message)
        fail("send");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll_ctl");
}

int main(int argc, char **argv) {
    if (argc != 4)
        complain("connects PORT AT_ONCE SECONDS");
    unsigned long long count = 0;
    there = local("127.0.0.1", atoi(argv[1]));
    for (int i = 0; i < ADDRESSES; i++) {
        here[i] = local("127.0.0.1", 0);
        here[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (unsigned)i);
    }
    if ((ep = epoll_create1(EPOLL_CLOEXEC)) < 0)
        fail("epoll_create1");
    for (int i = 0; i < atoi(argv[2]); i++)
        begin();
    for (struct span run = span_of(atof(argv[3])); keep_running(&run, &count);) {
        struct epoll_event events[BATCH];
        int n = epoll_wait(ep, events, BATCH, 100);
        for (int i = 0; i < n; i++) {
            char answer[sizeof message];
            ssize_t got = recv(events[i].data.fd, answer, sizeof answer, MSG_DONTWAIT);
            if (got != sizeof message || memcmp(answer, message, sizeof message))
                complain("the echo differs from the message sent");
            close(events[i].data.fd);
            count++;
            begin();
        }
    }
}

/* Receives and discards what a server sends: sink PORT BYTES SECONDS [PATH].

   Connects, requests PATH if given, discards BYTES bytes without copying them (MSG_TRUNC) up to
   EOF, and repeats until the time is over; an unfinished stream counts with the bytes received. An
   HTTP response is longer than BYTES by its head. */

#include "measure.h"

enum { ASKED = 16 * 1024 * 1024 };

int main(int argc, char **argv) {
    if (argc != 4 && argc != 5)
        complain("sink PORT BYTES SECONDS [PATH]");
    char ask[1024] = "";
    if (argc == 5)
        snprintf(ask, sizeof ask,
                 "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", argv[4]);
    struct sockaddr_in there = local("127.0.0.1", atoi(argv[1]));
    unsigned long long count = 0, whole = strtoull(argv[2], NULL, 10);
    struct span run = span_of(atof(argv[3]));
    for (;;) {
        unsigned long long came = 0;
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&there, sizeof there) < 0)
            fail("connect");
        if (*ask && send(fd, ask, strlen(ask), 0) < 0)
            fail("send");
        for (ssize_t got; (got = recv(fd, NULL, ASKED, MSG_TRUNC)) != 0;) {
            if (got < 0)
                fail("recv");
            came += (unsigned long long)got;
            count += (unsigned long long)got;
            if (!keep_running(&run, &count))
                return 0;
        }
        if (*ask ? came <= whole : came != whole)
            complain("the stream ended early");
        close(fd);
    }
}

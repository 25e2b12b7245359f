/* Sends a file to an HTTP server: upload PORT FILE HEAD TAIL.

   Sends HEAD before the bytes of the file and TAIL after them. Prints "begin" once connected, and
   "end BYTES SECONDS LAST" at the response: LAST is the part of SECONDS after the last byte was
   sent, in which the server drains the socket buffers and may sync the file to disk. */

#include "measure.h"
#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

static void send_text(int fd, const char *text) {
    size_t left = strlen(text);
    for (ssize_t sent; left > 0; left -= (size_t)sent, text += sent)
        if ((sent = send(fd, text, left, MSG_NOSIGNAL)) < 0)
            fail("send");
}

int main(int argc, char **argv) {
    if (argc != 5)
        complain("upload PORT FILE HEAD TAIL");
    struct sockaddr_in there = local("127.0.0.1", atoi(argv[1]));
    int file = open(argv[2], O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status) < 0)
        fail(argv[2]);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&there, sizeof there) < 0)
        fail("connect");
    puts("begin");
    fflush(stdout);
    double began = now();
    send_text(fd, argv[3]);
    for (off_t at = 0; at < status.st_size;)
        if (sendfile(fd, file, &at, (size_t)(status.st_size - at)) <= 0)
            fail("sendfile");
    send_text(fd, argv[4]);
    double last = now();
    char answer[256] = "";
    ssize_t got = recv(fd, answer, sizeof answer - 1, 0);
    double at = now();
    if (got < 0)
        fail("recv");
    if (strncmp(answer, "HTTP/1.", 7) != 0 || strncmp(answer + 8, " 2", 2) != 0) {
        answer[strcspn(answer, "\r\n")] = 0;
        complain(*answer ? answer : "the server sent no response");
    }
    printf("end %lld %.9f %.9f\n", (long long)status.st_size, at - began, at - last);
    return 0;
}

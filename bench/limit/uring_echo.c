/* An io_uring echo server in C, for trying options of the kernel one by one.

   uring_echo [OPTION...]: fixed (registered files), bundle and small (buffers of 4 KiB, with and
   without receive bundles), minwait=USEC (min_wait_usec of a wait for up to 32 completions),
   busy=USEC (SO_BUSY_POLL). With large, each connection receives into a buffer of its own and sends
   from it: then zc (SEND_ZC) and fixedbuf (registered buffers). Prints "listening PORT".

   The ring is set up as noria's is, and each received message is copied and sent by the call that
   waits. Connections that cannot take a whole message are closed: it is no server for other uses. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* The kernel's ABI, as headers may be older than the kernel. */
struct sqe { uint8_t opcode, flags; uint16_t ioprio; int32_t fd; uint64_t off, addr; uint32_t len, op_flags; uint64_t user_data; uint16_t buf; uint16_t personality; int32_t file_index; uint64_t addr3, pad; };
struct cqe { uint64_t user_data; int32_t res; uint32_t flags; };
struct offs { uint32_t head, tail, mask, entries, flags, dropped, array, resv; uint64_t user; };
struct cqoffs { uint32_t head, tail, mask, entries, overflow, cqes, flags, resv; uint64_t user; };
struct params { uint32_t sq_entries, cq_entries, flags, cpu, idle, features, wq, resv[3]; struct offs sq; struct cqoffs cq; };
struct getevents { uint64_t sigmask; uint32_t sigmask_sz, min_wait_usec; uint64_t ts; };
struct buf { uint64_t addr; uint32_t len; uint16_t bid, tail; };
struct buf_reg { uint64_t addr; uint32_t entries; uint16_t bgid, flags; uint64_t resv[3]; };
struct files_update { uint32_t offset, resv; uint64_t fds; };

enum { ACCEPT = 1, RECV = 2, SENT = 3, ENTRIES = 4096, MAX = 4096, LARGE_BYTES = 128 * 1024 };
enum { SETUP_CQSIZE = 8, SETUP_SUBMIT_ALL = 128, SETUP_SINGLE_ISSUER = 4096, SETUP_DEFER = 8192 };

static int ring, fixed, bundle, small, large, zc, fixedbuf, busy;
static unsigned minwait;
static struct sqe *sqes;
static struct cqe *cqes;
static uint32_t *sq_tail, *sq_head, *cq_head, *cq_tail, sq_mask, cq_mask, tail, to_submit;
static struct buf *bufs;
static char *data;
static unsigned buf_count, buf_size, buf_tail, used[1024];
static char *own[MAX];

static void fail(const char *what) { perror(what); exit(1); }

static void enter(unsigned wait) {
    struct getevents arg = {.min_wait_usec = wait ? minwait : 0};
    struct { int64_t s, ns; } limit = {1, 0};
    arg.ts = (uint64_t)&limit;
    __atomic_store_n(sq_tail, tail, __ATOMIC_RELEASE);
    int n = (int)syscall(426, ring, to_submit, wait ? (minwait ? 32 : 1) : 0, 1 | 8, &arg, sizeof arg);
    if (n < 0 && errno != EINTR && errno != ETIME && errno != EAGAIN && errno != EBUSY) fail("enter");
    to_submit = tail - __atomic_load_n(sq_head, __ATOMIC_ACQUIRE);
}

static struct sqe *next(int opcode, int fd, int tag) {
    if (tail - __atomic_load_n(sq_head, __ATOMIC_ACQUIRE) == ENTRIES) enter(0);
    struct sqe *s = &sqes[tail++ & sq_mask];
    memset(s, 0, sizeof *s);
    to_submit++;
    s->opcode = (uint8_t)opcode; s->fd = fd; s->user_data = (uint64_t)fd << 8 | (unsigned)tag;
    if (fixed && tag != ACCEPT) s->flags |= 1;
    return s;
}

static void provide(unsigned i) {
    struct buf *b = &bufs[buf_tail & (buf_count - 1)];
    used[i] = 0;
    b->addr = (uint64_t)(data + (size_t)i * buf_size); b->len = buf_size; b->bid = (uint16_t)i;
    __atomic_store_n(&bufs[0].tail, (uint16_t)++buf_tail, __ATOMIC_RELEASE);
}

static void receive(int fd) {
    struct sqe *s;
    if (large) {
        s = next(fixedbuf ? 4 : 27, fd, RECV); /* READ_FIXED, RECV */
        s->addr = (uint64_t)own[fd]; s->len = LARGE_BYTES; s->buf = (uint16_t)fd;
        if (fixedbuf) s->off = (uint64_t)-1;
        return;
    }
    s = next(27, fd, RECV);
    s->ioprio = (uint16_t)(2 | (bundle ? 16 : 0)); s->flags |= 32;
}

static void send_large(int fd, int n) {
    struct sqe *s = next(zc ? 47 : fixedbuf ? 5 : 26, fd, SENT);
    s->addr = (uint64_t)own[fd]; s->len = (uint32_t)n;
    if (zc) { if (fixedbuf) { s->ioprio = 4; s->buf = (uint16_t)fd; } s->op_flags = MSG_NOSIGNAL | MSG_WAITALL; }
    else if (fixedbuf) { s->buf = (uint16_t)fd; s->off = (uint64_t)-1; }
    else s->op_flags = MSG_NOSIGNAL | MSG_WAITALL;
}

static void accepted(int fd) {
    int one = 1;
    struct files_update update = {.offset = (uint32_t)fd, .fds = (uint64_t)&fd};
    if (fd >= MAX) { close(fd); return; }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (busy && setsockopt(fd, SOL_SOCKET, 46, &busy, sizeof busy)) fail("SO_BUSY_POLL");
    if (fixed && syscall(427, ring, 6, &update, 1) < 0) fail("files update");
    if (!own[fd]) {
        own[fd] = mmap(NULL, LARGE_BYTES, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
        if (fixedbuf) {
            struct iovec v = {own[fd], LARGE_BYTES};
            uint64_t tag = 0;
            struct { uint32_t offset, resv; uint64_t data, tags; uint32_t nr, resv2; } u = {(uint32_t)fd, 0, (uint64_t)&v, (uint64_t)&tag, 1, 0};
            if (syscall(427, ring, 16, &u, sizeof u) < 0) fail("buffers update");
        }
    }
    receive(fd);
}

static void received(int fd, struct cqe *c) {
    int n = c->res, at = 0;
    if (n == -ENOBUFS) { receive(fd); return; }
    if (n <= 0) { if (fixed) { int none = -1; struct files_update u = {.offset = (uint32_t)fd, .fds = (uint64_t)&none}; syscall(427, ring, 6, &u, 1); } close(fd); return; }
    if (large) { send_large(fd, n); return; }
    unsigned i = c->flags >> 16;
    if (small) {
        while (at < n) { /* a bundle takes successive buffers of the ring, which is in order here */
            int part = n - at < (int)buf_size ? n - at : (int)buf_size;
            memcpy(own[fd] + at, data + (size_t)i * buf_size, (size_t)part);
            at += part; provide(i); i = (i + 1) & (buf_count - 1);
        }
    } else {
        memcpy(own[fd], data + (size_t)i * buf_size + used[i], (size_t)n);
        used[i] += (unsigned)n;
        if (!(c->flags & 16)) provide(i);
    }
    struct sqe *s = next(26, fd, SENT);
    s->addr = (uint64_t)own[fd]; s->len = (uint32_t)n; s->op_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    if (!(c->flags & 2)) receive(fd);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "fixed")) fixed = 1;
        else if (!strcmp(argv[i], "small")) small = 1;
        else if (!strcmp(argv[i], "bundle")) small = bundle = 1;
        else if (!strcmp(argv[i], "large")) large = 1;
        else if (!strcmp(argv[i], "zc")) large = zc = 1;
        else if (!strcmp(argv[i], "fixedbuf")) large = fixedbuf = 1;
        else if (!strncmp(argv[i], "minwait=", 8)) minwait = (unsigned)atoi(argv[i] + 8);
        else if (!strncmp(argv[i], "busy=", 5)) busy = atoi(argv[i] + 5);
        else { fprintf(stderr, "unknown option %s\n", argv[i]); return 2; }
    }
    struct params p = {.cq_entries = ENTRIES * 4, .flags = SETUP_CQSIZE | SETUP_SUBMIT_ALL | SETUP_SINGLE_ISSUER | SETUP_DEFER};
    if ((ring = (int)syscall(425, ENTRIES, &p)) < 0) fail("io_uring_setup");
    char *q = mmap(NULL, p.cq.cqes + p.cq_entries * sizeof(struct cqe) + p.sq.array + p.sq_entries * 4, 3, MAP_SHARED | MAP_POPULATE, ring, 0);
    sqes = mmap(NULL, p.sq_entries * sizeof(struct sqe), 3, MAP_SHARED | MAP_POPULATE, ring, 0x10000000);
    if (q == MAP_FAILED || sqes == MAP_FAILED) fail("mmap");
    sq_head = (uint32_t *)(q + p.sq.head); sq_tail = (uint32_t *)(q + p.sq.tail); sq_mask = *(uint32_t *)(q + p.sq.mask);
    cq_head = (uint32_t *)(q + p.cq.head); cq_tail = (uint32_t *)(q + p.cq.tail); cq_mask = *(uint32_t *)(q + p.cq.mask);
    cqes = (struct cqe *)(q + p.cq.cqes);
    for (unsigned i = 0; i < p.sq_entries; i++) ((uint32_t *)(q + p.sq.array))[i] = i;
    buf_count = small ? 512 : 16; buf_size = small ? 4096 : 256 * 1024;
    bufs = mmap(NULL, 16384, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    data = mmap(NULL, (size_t)buf_count * buf_size, 3, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct buf_reg r = {.addr = (uint64_t)bufs, .entries = buf_count, .flags = small ? 0 : 2};
    if (syscall(427, ring, 22, &r, 1) < 0) fail("buffer ring");
    for (unsigned i = 0; i < (small ? buf_count : 4); i++) provide(i);
    if (fixed) { struct { uint32_t nr, flags; uint64_t resv2, data, tags; } f = {MAX, 1, 0, 0, 0}; if (syscall(427, ring, 13, &f, sizeof f) < 0) fail("files"); }
    if (fixedbuf) { struct { uint32_t nr, flags; uint64_t resv2, data, tags; } f = {MAX, 1, 0, 0, 0}; if (syscall(427, ring, 15, &f, sizeof f) < 0) fail("buffers"); }
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof here;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 4096) < 0) fail("listen");
    getsockname(listener, (struct sockaddr *)&here, &length);
    struct sqe *s = next(13, listener, ACCEPT);
    s->ioprio = 1; s->op_flags = SOCK_CLOEXEC;
    printf("listening %d\n", ntohs(here.sin_port)); fflush(stdout);
    for (;;) {
        enter(1);
        uint32_t head = *cq_head;
        while (head != __atomic_load_n(cq_tail, __ATOMIC_ACQUIRE)) {
            struct cqe c = cqes[head++ & cq_mask];
            __atomic_store_n(cq_head, head, __ATOMIC_RELEASE);
            int fd = (int)(c.user_data >> 8), tag = (int)(c.user_data & 255);
            if (tag == ACCEPT) { if (c.res >= 0) accepted(c.res); else fail("accept"); }
            else if (tag == RECV) received(fd, &c);
            else if (large && !(c.flags & 2)) receive(fd); /* SEND_ZC: at its notification */
        }
    }
}

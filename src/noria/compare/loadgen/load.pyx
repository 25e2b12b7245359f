# cython: language_level=3, cdivision=True
"""A load generator for echo servers, compiled and without the GIL, so that the server is the limit.

A run is closed-loop: each connection keeps ``depth`` messages in flight and sends the next one only
when an echo is complete. A latency therefore runs from the send of a message to the last byte of
its echo, and says nothing of messages that a slower server kept from being sent.

What a message holds comes from one *book* of random bytes: message number ``s`` of connection ``c``
is the page of the book that begins at ``page(c, s)``. Connections that are level hold different
pages, and so do neighbouring messages of one connection; a message that is lost, repeated, or given
to another connection does not fit the page that is due. Nothing is filled in for each message, and
checking an echo is one ``memcmp``. (Messages of fewer than 8 bytes are too short to be told apart
with certainty.)
"""

import errno as _errno
import os
import resource
import socket as _socket
from dataclasses import asdict, dataclass

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport (
    EAGAIN,
    EINPROGRESS,
    EINTR,
    errno,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from noria.errors import NoriaError

cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(clockid_t clock, timespec* now)
    int nanosleep(const timespec* pause, timespec* left)

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET
    int AF_INET6
    int AF_UNIX
    int SOCK_STREAM
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int SOL_SOCKET
    int SO_ERROR
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    int MSG_PEEK
    ctypedef unsigned int socklen_t
    cdef struct sockaddr:
        pass
    cdef struct sockaddr_storage:
        unsigned short ss_family
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int socket(int family, int kind, int protocol)
    int connect(int fd, const sockaddr* address, socklen_t length)
    ssize_t recv(int fd, void* buffer, size_t length, int flags)
    ssize_t send(int fd, const void* buffer, size_t length, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    int getsockopt(int fd, int level, int option, void* value, socklen_t* length)
    int setsockopt(int fd, int level, int option, const void* value, socklen_t length)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct in6_addr:
        unsigned char s6_addr[16]
    cdef struct sockaddr_in:
        unsigned short sin_family
        unsigned short sin_port
        in_addr sin_addr
    cdef struct sockaddr_in6:
        unsigned short sin6_family
        unsigned short sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    unsigned short htons(unsigned short value)
    uint32_t htonl(uint32_t value)
    int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<sys/un.h>" nogil:
    cdef struct sockaddr_un:
        unsigned short sun_family
        char sun_path[108]

cdef extern from "<sys/epoll.h>" nogil:
    uint32_t EPOLLIN
    uint32_t EPOLLOUT
    int EPOLL_CLOEXEC
    int EPOLL_CTL_ADD
    int EPOLL_CTL_MOD
    int EPOLL_CTL_DEL
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int operation, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int room, int timeout_ms)

cdef extern from *:
    int clz "__builtin_clzll"(uint64_t value) noexcept nogil

cdef enum:
    BATCH = 256               # events taken from the kernel at once
    IOVECS = 64               # messages put into one sendmsg
    READ_ROOM = 262144        # bytes of the one receive buffer
    PAGES = 65536             # places in the book where a message may begin
    CONNECTING_AT_ONCE = 200  # connects begun and not ended, so that a backlog is not overrun
    SUB_BITS = 7              # 128 steps in each power of two: a bucket is at most 0.8% wide
    SUB_STEPS = 128
    BUCKETS = 4736            # up to 2**43 ns, over two hours; longer ones go into the last

cdef int64_t MS = 1000000
cdef int64_t SLICE = 100 * MS           # the longest time without a look at the signals
cdef int64_t FIRST_PATIENCE = 50 * MS   # a connect without progress this long is begun anew
cdef int64_t NO_PROGRESS = 3000 * MS    # connecting is given up after this long without any
cdef double SETTLE = 0.1                # seconds: the roll call goes on while more answer in it
cdef double SETTLED = 5.0               # seconds: but for no longer than this
cdef int64_t DRAIN = 250 * MS           # for the echoes still under way at the end of a run

# What a piece of work without the GIL ended with.
cdef enum Outcome:
    FINISHED
    AGAIN           # the slice is over: look at the signals and go on
    BEGIN           # the warm-up is over
    STUCK           # no connect has ended for NO_PROGRESS
    FAILED          # errno is in `error`, the connection in `culprit`
    CLOSED          # the server closed connection `culprit`
    WRONG           # an echo that is not what was sent
    SURPLUS         # more came back than was sent


class WrongEcho(NoriaError):
    """What came back is not what was sent: bytes lost, changed, or from another connection."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a run measured. Latencies are in microseconds, and None if no message came back."""

    messages: int
    seconds: float
    messages_per_second: float
    p50_us: float | None
    p99_us: float | None
    p999_us: float | None
    max_us: float | None
    served: int
    connections: int
    connected: int
    size: int
    depth: int
    idle: int
    histogram: list[tuple[float, float, int]]

    def as_dict(self) -> dict[str, object]:
        """The same as plain values, ready for JSON."""
        return asdict(self)


cdef inline int64_t clock() noexcept nogil:
    """Nanoseconds of CLOCK_MONOTONIC."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef inline int whole_ms(int64_t ns) noexcept nogil:
    """A timeout for epoll_wait that is never zero, so that a short wait is not a spin."""
    return 1 if ns < MS else <int>(ns / MS)


cdef class Address:
    """A socket address in the form that connect() takes."""

    cdef sockaddr_storage raw
    cdef socklen_t length
    cdef int family
    cdef readonly str name

    @staticmethod
    def of_unix(path):
        cdef Address self = Address()
        cdef sockaddr_un* un = <sockaddr_un*>&self.raw
        encoded = os.fsencode(path)
        cdef size_t length = len(encoded)
        if length >= sizeof(un.sun_path):
            raise OSError(_errno.ENAMETOOLONG, "Unix socket path is too long", str(path))
        memset(&self.raw, 0, sizeof(self.raw))
        un.sun_family = <unsigned short>AF_UNIX
        memcpy(un.sun_path, <const char*>encoded, length)
        # A leading zero byte is the abstract namespace, where the length is part of the name.
        self.length = <socklen_t>(
            sizeof(un.sun_family) + length + (0 if encoded.startswith(b"\0") else 1)
        )
        self.family = AF_UNIX
        self.name = str(path)
        return self

    @staticmethod
    def of_tcp(family, where):
        cdef Address self = Address()
        cdef sockaddr_in* v4 = <sockaddr_in*>&self.raw
        cdef sockaddr_in6* v6 = <sockaddr_in6*>&self.raw
        packed = _socket.inet_pton(family, where[0].partition("%")[0])
        memset(&self.raw, 0, sizeof(self.raw))
        if family == _socket.AF_INET6:
            v6.sin6_family = <unsigned short>AF_INET6
            v6.sin6_port = htons(where[1])
            v6.sin6_flowinfo = htonl(where[2])
            v6.sin6_scope_id = where[3]
            memcpy(&v6.sin6_addr, <const char*>packed, 16)
            self.length = sizeof(sockaddr_in6)
            self.family = AF_INET6
            self.name = f"[{where[0]}]:{where[1]}"
        else:
            v4.sin_family = <unsigned short>AF_INET
            v4.sin_port = htons(where[1])
            memcpy(&v4.sin_addr, <const char*>packed, 4)
            self.length = sizeof(sockaddr_in)
            self.family = AF_INET
            self.name = f"{where[0]}:{where[1]}"
        return self


def addresses(host, port, unix):
    """Every address that the server may be at, the one to try first in front."""
    if unix is not None:
        return [Address.of_unix(unix)]
    found = _socket.getaddrinfo(host, port, type=_socket.SOCK_STREAM)
    return [
        Address.of_tcp(family, where)
        for family, _, _, _, where in found
        if family in (_socket.AF_INET, _socket.AF_INET6)
    ]


def check_descriptors(wanted):
    """Raise OSError (EMFILE) now rather than after half of the connections are open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    used = len(os.listdir("/proc/self/fd"))
    if limit != resource.RLIM_INFINITY and used + wanted + 2 > limit:
        raise OSError(
            _errno.EMFILE,
            f"{wanted} connections do not fit below the limit of {limit} open files "
            f"({used} are in use); raise it with 'ulimit -n {used + wanted + 64}'",
        )


cdef class Fleet:
    """Many sockets to one server: a C array of descriptors, and the way to connect them."""

    cdef int* fds
    cdef uint8_t* state     # 0: not begun, 1: connecting, 2: connected
    cdef int epfd
    cdef uint32_t count
    cdef uint32_t connected
    cdef uint32_t pending
    cdef uint32_t following  # the first that may not have been begun
    cdef int64_t patience
    cdef int64_t patient_until
    cdef int64_t give_up
    cdef uint32_t connected_at_stall
    cdef int error

    def __cinit__(self, uint32_t count):
        cdef uint32_t i
        self.epfd = -1
        self.count = 0
        self.fds = <int*>malloc(count * sizeof(int))
        self.state = <uint8_t*>calloc(count, 1)
        if count and (self.fds == NULL or self.state == NULL):
            raise MemoryError
        self.count = count
        for i in range(count):
            self.fds[i] = -1

    def __dealloc__(self):
        self.shut()
        free(self.fds)
        free(self.state)

    cdef void shut(self) noexcept nogil:
        """Close every socket. Calling it again does nothing."""
        cdef uint32_t i
        if self.epfd >= 0:
            close(self.epfd)
            self.epfd = -1
        for i in range(self.count):
            if self.fds[i] >= 0:
                close(self.fds[i])
                self.fds[i] = -1
                self.state[i] = 0
        self.connected = 0

    cdef int open(self, list places) except -1:
        """Connect all; raises OSError. Some may stay unconnected if the backlog stays full."""
        check_descriptors(self.count)
        cdef Address place
        for number, place in enumerate(places):
            try:
                self.open_at(place)
            except ConnectionRefusedError:
                # "localhost" is ::1 and 127.0.0.1, and most servers listen on one of them.
                if self.connected or number + 1 == len(places):
                    raise
                self.shut()
            else:
                return 0
        raise OSError(_errno.EADDRNOTAVAIL, "the host has no address to connect to")

    cdef int open_at(self, Address place) except -1:
        cdef Outcome outcome = AGAIN
        cdef int64_t now = clock()
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, os.strerror(errno))
        self.pending = self.following = self.connected = self.connected_at_stall = 0
        self.patience = FIRST_PATIENCE
        self.patient_until = now + self.patience
        self.give_up = now + NO_PROGRESS
        while outcome == AGAIN:
            with nogil:
                outcome = self.step(place)
            PyErr_CheckSignals()
        if outcome == FAILED:
            raise OSError(self.error, f"{os.strerror(self.error)}: {place.name}")
        if outcome == STUCK:
            if self.connected == 0:
                raise OSError(
                    _errno.ETIMEDOUT, f"no connection to {place.name} in {NO_PROGRESS // MS} ms"
                )
            self.abandon()
        close(self.epfd)
        self.epfd = -1
        return 0

    cdef void abandon(self) noexcept nogil:
        """Close the sockets that are still connecting; they may be begun anew."""
        cdef uint32_t i
        for i in range(self.count):
            if self.state[i] == 1:
                close(self.fds[i])
                self.fds[i] = -1
                self.state[i] = 0
        self.pending = 0
        self.following = 0

    cdef Outcome step(self, Address place) noexcept nogil:
        """Connect for one slice of time, with at most CONNECTING_AT_ONCE connects under way.

        A listener whose queue is full drops the request, and the kernel repeats it only after a
        second or more. Those who get nowhere for `patience` are begun anew instead.
        """
        cdef epoll_event[BATCH] events
        cdef int64_t now = clock()
        cdef int64_t until = now + SLICE
        cdef int i, n, problem
        cdef uint32_t before
        cdef uint64_t which
        cdef socklen_t length
        while True:
            before = self.connected
            self.error = self.begin_some(place)
            if self.error:
                return FAILED
            if self.connected == self.count:
                return FINISHED
            # Nothing under way here means a Unix listener with a full queue: ask again soon.
            n = epoll_wait(self.epfd, events, BATCH, 10 if self.pending else 1)
            if n < 0 and errno != EINTR:
                self.error = errno
                return FAILED
            for i in range(n):
                which = events[i].data.u64
                if self.state[which] != 1:
                    continue
                problem = 0
                length = sizeof(problem)
                getsockopt(self.fds[which], SOL_SOCKET, SO_ERROR, &problem, &length)
                if problem:
                    self.error = problem
                    return FAILED
                epoll_ctl(self.epfd, EPOLL_CTL_DEL, self.fds[which], NULL)
                self.state[which] = 2
                self.pending -= 1
                self.connected += 1
            if self.connected == self.count:
                return FINISHED
            now = clock()
            if self.connected != before:
                self.give_up = now + NO_PROGRESS
                self.patient_until = now + self.patience
            elif now > self.give_up:
                return STUCK
            elif now > self.patient_until and self.pending:
                if self.connected == self.connected_at_stall:
                    self.patience *= 2  # a distant server needs longer than a full queue
                self.connected_at_stall = self.connected
                self.abandon()
                self.patient_until = now + self.patience
            if now > until or n < 0:
                return AGAIN

    cdef int begin_some(self, Address place) noexcept nogil:
        """Begin as many connects as may be under way; returns 0 or an errno."""
        cdef epoll_event event
        cdef int fd, problem, one = 1
        while self.following < self.count and self.pending < CONNECTING_AT_ONCE:
            if self.state[self.following] != 0:
                self.following += 1
                continue
            fd = socket(place.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
            if fd < 0:
                return errno
            if place.family != AF_UNIX:
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            problem = 0
            if connect(fd, <sockaddr*>&place.raw, place.length) < 0:
                problem = errno
            if problem == 0:
                self.fds[self.following] = fd
                self.state[self.following] = 2
                self.connected += 1
            elif problem == EINPROGRESS or problem == EINTR:
                event.events = EPOLLOUT
                event.data.u64 = self.following
                if epoll_ctl(self.epfd, EPOLL_CTL_ADD, fd, &event) < 0:
                    problem = errno
                    close(fd)
                    return problem
                self.fds[self.following] = fd
                self.state[self.following] = 1
                self.pending += 1
            else:
                close(fd)
                if problem == EAGAIN and place.family == AF_UNIX:
                    return 0  # the listener's queue is full
                return problem
            self.following += 1
        return 0


cdef class IdleConnections:
    """Connected sockets that send nothing. Close them with close() or leave the ``with`` block."""

    cdef Fleet fleet

    def __init__(self, host, port, n, *, unix=None):
        if n < 0:
            raise ValueError(f"n is {n}; it must be at least 0")
        self.fleet = Fleet(n)
        if n:
            try:
                self.fleet.open(addresses(host, port, unix))
            except BaseException:
                self.fleet.shut()
                raise

    def __len__(self):
        """How many are connected."""
        return self.fleet.connected

    def ended(self):
        """How many of them the server has closed by now."""
        cdef uint32_t i
        cdef uint32_t ended = 0
        cdef ssize_t got
        cdef char byte
        with nogil:
            for i in range(self.fleet.count):
                if self.fleet.fds[i] < 0:
                    continue
                got = recv(self.fleet.fds[i], &byte, 1, MSG_PEEK | MSG_DONTWAIT)
                if got == 0 or (got < 0 and errno != EAGAIN and errno != EINTR):
                    ended += 1
        return ended

    def close(self):
        """Close them all. Calling it again does nothing."""
        with nogil:
            self.fleet.shut()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


def open_idle(host, port, n, *, unix=None):
    """Open `n` connections that stay idle; raises OSError (refused, or too few descriptors)."""
    return IdleConnections(host, port, n, unix=unix)


cdef struct Line:
    # One connection. Message number `sent` is the one being sent, `got` the one coming back.
    int fd
    uint32_t number
    uint64_t sent
    uint64_t got
    size_t sent_part     # bytes of message `sent` that the kernel has taken
    size_t got_part      # bytes of message `got` that have come back
    uint64_t answered    # in the measured time
    bint blocked         # waiting for room in the socket buffer
    int64_t* stamps      # when each message in flight was sent: `depth` of them, a ring


cdef inline size_t page(Line* line, uint64_t message) noexcept nogil:
    """Where in the book a message begins. The odd factors make neighbours differ."""
    return (<uint64_t>line.number * 40503 + message * 31) & (PAGES - 1)


cdef class Run:
    """One measured run over a fleet of connections."""

    cdef Fleet fleet
    cdef Line* lines
    cdef int64_t* stamps
    cdef uint8_t* book
    cdef uint8_t* buffer
    cdef uint64_t* buckets
    cdef int epfd
    cdef size_t size
    cdef uint64_t depth
    cdef bint verify
    cdef bint measuring
    cdef bint calling       # one message on each connection, and no more
    cdef bint stopping
    cdef uint64_t messages
    cdef uint32_t awake     # connections that have had an answer
    cdef int64_t longest
    cdef int64_t phase_end  # when the warm-up, the measuring, or the draining is to end
    cdef int error
    cdef Line* culprit
    cdef size_t culprit_at

    def __cinit__(self, Fleet fleet, size_t size, uint64_t depth, bint verify):
        cdef uint64_t word = 0x9E3779B97F4A7C15
        cdef size_t i
        cdef size_t room = PAGES + size
        self.epfd = -1
        self.fleet = fleet
        self.size = size
        self.depth = depth
        self.verify = verify
        self.lines = <Line*>calloc(fleet.count, sizeof(Line))
        self.stamps = <int64_t*>calloc(fleet.count * depth, sizeof(int64_t))
        self.book = <uint8_t*>malloc(room)
        self.buffer = <uint8_t*>malloc(READ_ROOM)
        self.buckets = <uint64_t*>calloc(BUCKETS, sizeof(uint64_t))
        if (self.lines == NULL or self.stamps == NULL or self.book == NULL
                or self.buffer == NULL or self.buckets == NULL):
            raise MemoryError
        for i in range(room):  # xorshift64: the same book every time
            word ^= word << 13
            word ^= word >> 7
            word ^= word << 17
            self.book[i] = <uint8_t>(word >> 32)

    def __dealloc__(self):
        if self.epfd >= 0:
            close(self.epfd)
        free(self.lines)
        free(self.stamps)
        free(self.book)
        free(self.buffer)
        free(self.buckets)

    cdef int prepare(self) except -1:
        cdef uint32_t i
        cdef epoll_event event
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, os.strerror(errno))
        for i in range(self.fleet.count):
            self.lines[i].fd = self.fleet.fds[i]
            self.lines[i].number = i
            self.lines[i].stamps = self.stamps + i * self.depth
            if self.lines[i].fd < 0:
                continue
            event.events = EPOLLIN
            event.data.u64 = i
            if epoll_ctl(self.epfd, EPOLL_CTL_ADD, self.lines[i].fd, &event) < 0:
                raise OSError(errno, os.strerror(errno))
        return 0

    cdef Outcome fill_all(self) noexcept nogil:
        """Send what is to be sent on every connection."""
        cdef uint32_t i
        cdef Outcome outcome
        for i in range(self.fleet.count):
            if self.lines[i].fd >= 0:
                outcome = self.fill(&self.lines[i])
                if outcome != FINISHED:
                    return outcome
        return FINISHED

    cdef Outcome drive(self) noexcept nogil:
        """Exchange messages until the phase ends (FINISHED) or a slice of time is over (AGAIN)."""
        cdef epoll_event[BATCH] events
        cdef Line* line
        cdef Outcome outcome
        cdef int i, n
        cdef int64_t now = clock()
        cdef int64_t until = now + SLICE
        if self.phase_end < until:
            until = self.phase_end
        while now < until:
            n = epoll_wait(self.epfd, events, BATCH, whole_ms(until - now))
            if n < 0:
                if errno == EINTR:
                    return AGAIN
                self.error = errno
                return FAILED
            for i in range(n):
                line = &self.lines[events[i].data.u64]
                if events[i].events != EPOLLOUT:  # data, an error or a hang-up: recv tells which
                    outcome = self.take(line)
                    if outcome != FINISHED:
                        return outcome
                outcome = self.fill(line)
                if outcome != FINISHED:
                    return outcome
            if self.calling and self.awake == self.fleet.connected:
                return FINISHED
            if self.stopping and self.all_home():
                return FINISHED
            now = clock()
        return FINISHED if now >= self.phase_end else AGAIN

    cdef bint all_home(self) noexcept nogil:
        """Whether every connection that was ever answered has no message under way."""
        cdef uint32_t i
        for i in range(self.fleet.count):
            if self.lines[i].got and (
                self.lines[i].sent != self.lines[i].got or self.lines[i].sent_part
            ):
                return False
        return True

    cdef Outcome take(self, Line* line) noexcept nogil:
        """Read once, and check and count what came. The kernel tells again if there is more."""
        cdef ssize_t got = recv(line.fd, self.buffer, READ_ROOM, 0)
        cdef size_t left, part, at = 0
        cdef uint8_t* due
        cdef int64_t now
        if got < 0:
            if errno == EAGAIN or errno == EINTR:
                return FINISHED
            self.culprit = line
            self.error = errno
            return FAILED
        if got == 0:
            self.culprit = line
            return CLOSED
        now = clock()
        left = <size_t>got
        while left:
            if line.got == line.sent and line.sent_part <= line.got_part:
                self.culprit = line
                return SURPLUS
            part = self.size - line.got_part
            if part > left:
                part = left
            if self.verify:
                due = self.book + page(line, line.got) + line.got_part
                if memcmp(self.buffer + at, due, part) != 0:
                    self.culprit = line
                    self.culprit_at = line.got_part
                    while self.buffer[at] == due[0]:
                        self.culprit_at += 1
                        at += 1
                        due += 1
                    return WRONG
            at += part
            left -= part
            line.got_part += part
            if line.got_part == self.size:
                if self.measuring:
                    self.count(line, now - line.stamps[line.got % self.depth])
                if line.got == 0:
                    self.awake += 1
                line.got += 1
                line.got_part = 0
        return FINISHED

    cdef inline void count(self, Line* line, int64_t latency) noexcept nogil:
        """One echo more: into the bucket of its latency."""
        cdef uint64_t value = <uint64_t>latency
        cdef uint64_t bucket = value
        cdef int shift
        if value >= SUB_STEPS:
            shift = 63 - SUB_BITS - clz(value)
            bucket = shift * SUB_STEPS + (value >> shift)
            if bucket >= BUCKETS:
                bucket = BUCKETS - 1
        self.buckets[bucket] += 1
        self.messages += 1
        line.answered += 1
        if latency > self.longest:
            self.longest = latency

    cdef Outcome fill(self, Line* line) noexcept nogil:
        """Send until `depth` messages are in flight or the socket's buffer is full."""
        cdef iovec[IOVECS] parts
        cdef msghdr message
        cdef uint64_t end = line.got + self.depth
        cdef uint64_t which
        cdef size_t asked, taken
        cdef ssize_t sent
        cdef int n
        cdef int64_t now
        if self.calling:
            end = 1
        if self.stopping:  # end what is begun, begin nothing
            end = line.sent + (1 if line.sent_part else 0)
        while line.sent < end:
            now = clock()
            n = 0
            asked = 0
            which = line.sent
            while which < end and n < IOVECS:
                parts[n].iov_base = self.book + page(line, which)
                parts[n].iov_len = self.size
                if n == 0 and line.sent_part:
                    parts[0].iov_base = <uint8_t*>parts[0].iov_base + line.sent_part
                    parts[0].iov_len -= line.sent_part
                else:
                    line.stamps[which % self.depth] = now
                asked += parts[n].iov_len
                which += 1
                n += 1
            if n == 1:
                sent = send(line.fd, parts[0].iov_base, parts[0].iov_len, MSG_NOSIGNAL)
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = parts
                message.msg_iovlen = n
                sent = sendmsg(line.fd, &message, MSG_NOSIGNAL)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    return self.block(line, True)
                self.culprit = line
                self.error = errno
                return FAILED
            taken = line.sent_part + <size_t>sent
            line.sent += taken / self.size
            line.sent_part = taken % self.size
            if <size_t>sent < asked:
                return self.block(line, True)
        return self.block(line, False)

    cdef Outcome block(self, Line* line, bint blocked) noexcept nogil:
        """Have the kernel tell of room in the socket's buffer, or no longer."""
        cdef epoll_event event
        if blocked == line.blocked:
            return FINISHED
        line.blocked = blocked
        event.events = EPOLLIN | EPOLLOUT if blocked else EPOLLIN
        event.data.u64 = line.number
        if epoll_ctl(self.epfd, EPOLL_CTL_MOD, line.fd, &event) < 0:
            self.culprit = line
            self.error = errno
            return FAILED
        return FINISHED

    cdef int phase(self, double seconds) except -1:
        """Drive for a time given in seconds, with a look at the signals every SLICE."""
        cdef Outcome outcome = AGAIN
        self.phase_end = clock() + <int64_t>(seconds * 1e9)
        while outcome == AGAIN:
            with nogil:
                outcome = self.drive()
            PyErr_CheckSignals()
        return self.judge(outcome)

    cdef int roll_call(self) except -1:
        """Have one message echoed on every connection, or on as many as the server serves at once.

        Without it, a server that accepts one connection a turn (and whose turns grow long as those
        it has accepted keep it busy) would be measured while it still accepts.
        """
        cdef uint32_t before
        cdef int64_t latest = clock() + <int64_t>(SETTLED * 1e9)
        self.calling = True
        self.judge(self.fill_all())
        while True:
            before = self.awake
            self.phase(SETTLE)
            if self.awake == self.fleet.connected or self.awake == before or clock() > latest:
                break
        self.calling = False
        return 0

    cdef int judge(self, Outcome outcome) except -1:
        """Raise what an outcome other than FINISHED means."""
        if outcome == FINISHED:
            return 0
        if self.culprit == NULL:
            raise OSError(self.error, os.strerror(self.error))
        who = f"connection {self.culprit.number}"
        done = f"after {self.culprit.got} complete echoes"
        if outcome == CLOSED:
            raise ConnectionAbortedError(
                _errno.ECONNABORTED, f"the server closed {who} {done}, while an echo was due"
            )
        if outcome == WRONG:
            raise WrongEcho(
                f"{who}: message {self.culprit.got} came back wrong "
                f"from byte {self.culprit_at} of {self.size} on"
            )
        if outcome == SURPLUS:
            raise WrongEcho(f"{who}: the server sent more than it was sent, {done}")
        raise OSError(self.error, f"{os.strerror(self.error)}: {who} {done}")

    cdef object histogram(self):
        """The buckets that are not empty: lower edge and upper edge (microseconds), and count."""
        cdef uint64_t low, wide, shift
        cdef size_t i
        found = []
        for i in range(BUCKETS):
            if self.buckets[i]:
                low, wide = i, 1
                if i >= 2 * SUB_STEPS:
                    shift = i / SUB_STEPS - 1
                    wide = <uint64_t>1 << shift
                    low = (i - shift * SUB_STEPS) << shift
                found.append((low / 1000.0, (low + wide) / 1000.0, self.buckets[i]))
        return found

    cdef uint32_t served(self):
        cdef uint32_t i
        cdef uint32_t served = 0
        for i in range(self.fleet.count):
            if self.lines[i].answered:
                served += 1
        return served


def percentile(histogram, share, total, longest):
    """The latency that `share` of the messages kept within: the middle of its bucket."""
    wanted = share * total
    seen = 0
    for low, high, count in histogram:
        seen += count
        if seen >= wanted:
            return min((low + high) / 2, longest)
    return longest


def run(
    host="127.0.0.1",
    port=0,
    *,
    unix=None,
    connections,
    size,
    depth=1,
    seconds,
    warmup=0.1,
    verify=True,
    idle=0,
    at_start=None,
    at_end=None,
):
    """Load an echo server and measure it.

    Opens `idle` connections that send nothing and `connections` that each keep `depth` messages of
    `size` bytes in flight; counts complete echoes for `seconds` once every connection has had
    one answer (or no more get their first) and then `warmup` seconds have passed.
    Connections that the server never answers (it may serve one at a time) are no error: they are
    not `served`. `at_start` and `at_end` are called right before and after the measured time.

    Raises OSError with its errno (refused, reset, too few descriptors), ConnectionAbortedError if
    the server closes a connection, WrongEcho if an echo is not what was sent, ValueError.
    """
    for name, value in (("connections", connections), ("size", size), ("depth", depth)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if not seconds > 0 or warmup < 0 or idle < 0:
        raise ValueError("seconds must be above 0, warmup and idle not below 0")
    cdef IdleConnections still = None
    cdef Fleet fleet = Fleet(connections)
    cdef Run work
    cdef int64_t begun, ended
    try:
        check_descriptors(connections + idle)
        still = IdleConnections(host, port, idle, unix=unix)
        fleet.open(addresses(host, port, unix))
        work = Run(fleet, size, depth, verify)
        work.prepare()
        work.roll_call()
        work.judge(work.fill_all())
        work.phase(warmup)
        if at_start is not None:
            at_start()
        work.measuring = True
        begun = clock()
        work.phase(seconds)
        ended = clock()
        work.measuring = False
        if at_end is not None:
            at_end()
        # The server then sees the end of each stream with nothing left to send into it.
        work.stopping = True
        if not work.all_home():
            work.phase(DRAIN / 1e9)
        connected, quiet = fleet.connected, len(still)
    finally:
        fleet.shut()
        if still is not None:
            still.close()
    histogram = work.histogram()
    total = work.messages
    longest = work.longest / 1000.0
    shares = [
        percentile(histogram, share, total, longest) if total else None
        for share in (0.5, 0.99, 0.999)
    ]
    elapsed = (ended - begun) / 1e9
    return LoadResult(
        messages=total,
        seconds=elapsed,
        messages_per_second=total / elapsed,
        p50_us=shares[0],
        p99_us=shares[1],
        p999_us=shares[2],
        max_us=longest if total else None,
        served=work.served(),
        connections=connections,
        connected=connected,
        size=size,
        depth=depth,
        idle=quiet,
        histogram=histogram,
    )

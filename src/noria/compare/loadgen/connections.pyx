# cython: language_level=3, cdivision=True
"""Connections of the load generator: a pool of sockets to one server, and how it connects them."""

import errno as _errno
import os
import resource
import socket as _socket

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport (
    EAGAIN,
    EINPROGRESS,
    EINTR,
    errno,
)
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from noria.compare.loadgen.kernel cimport (
    AF_INET,
    AF_INET6,
    AF_UNIX,
    EPOLL_BATCH,
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_DEL,
    EPOLLOUT,
    IPPROTO_TCP,
    MSG_DONTWAIT,
    MSG_PEEK,
    NS_PER_MS,
    SLICE_NS,
    SO_ERROR,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    clock,
    close,
    connect,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    getsockopt,
    htonl,
    htons,
    recv,
    setsockopt,
    sockaddr,
    sockaddr_in,
    sockaddr_in6,
    sockaddr_un,
    socket,
    socklen_t,
    ssize_t,
)

cdef enum:
    MAX_PENDING_CONNECTS = 200  # fewer than the usual backlog of a listener

cdef int64_t FIRST_RETRY_NS = 50000000  # 50 ms without progress, then connects are retried
cdef int64_t STALLED_NS = 3000000000    # 3 s without progress, then connecting ends

# States of a socket of a pool.
cdef enum:
    UNCONNECTED
    CONNECTING
    CONNECTED

# Results of ConnectionPool.connect_slice.
cdef enum Progress:
    DONE
    CONTINUE  # the slice of time has ended: check for signals, then continue
    STALLED   # no connect has completed for STALLED_NS
    FAILED    # errno is in `error`


cdef class Address:
    """A socket address as connect(2) takes it."""

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
        # In the abstract namespace (a leading zero byte) the length is part of the name: unix(7).
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


def resolve(host, port, unix):
    """The server's possible addresses, in the order to try them."""
    if unix is not None:
        return [Address.of_unix(unix)]
    found = _socket.getaddrinfo(host, port, type=_socket.SOCK_STREAM)
    return [
        Address.of_tcp(family, where)
        for family, _, _, _, where in found
        if family in (_socket.AF_INET, _socket.AF_INET6)
    ]


def check_descriptors(wanted):
    """Raise OSError (EMFILE) if `wanted` more descriptors exceed RLIMIT_NOFILE."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    used = len(os.listdir("/proc/self/fd"))
    if limit != resource.RLIM_INFINITY and used + wanted + 2 > limit:
        raise OSError(
            _errno.EMFILE,
            f"{wanted} connections exceed the limit of {limit} open files "
            f"({used} are in use); raise the limit with 'ulimit -n {used + wanted + 64}'",
        )


cdef class ConnectionPool:
    """Sockets to one server. `fds` has -1 for a socket that is not open."""

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
        self.close_all()
        free(self.fds)
        free(self.state)

    cdef void close_all(self) noexcept nogil:
        """Close every socket. A second call does nothing."""
        cdef uint32_t i
        if self.epfd >= 0:
            close(self.epfd)
            self.epfd = -1
        for i in range(self.count):
            if self.fds[i] >= 0:
                close(self.fds[i])
                self.fds[i] = -1
                self.state[i] = UNCONNECTED
        self.connected = 0

    cdef int open(self, list addresses) except -1:
        """Connect all; raise OSError. Some stay unconnected if the server's backlog stays full."""
        check_descriptors(self.count)
        cdef Address address
        for number, address in enumerate(addresses):
            try:
                self.connect_all(address)
            except ConnectionRefusedError:
                # "localhost" is ::1 and 127.0.0.1, and most servers listen on only one of them.
                if self.connected or number + 1 == len(addresses):
                    raise
                self.close_all()
            else:
                return 0
        raise OSError(_errno.EADDRNOTAVAIL, "the host has no address to connect to")

    cdef int connect_all(self, Address address) except -1:
        cdef int progress = CONTINUE
        cdef int64_t now = clock()
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        if self.epfd < 0:
            raise OSError(errno, os.strerror(errno))
        self.pending = self.next_unconnected = self.connected = self.connected_at_retry = 0
        self.retry_ns = FIRST_RETRY_NS
        self.retry_at = now + self.retry_ns
        self.stalled_at = now + STALLED_NS
        while progress == CONTINUE:
            with nogil:
                progress = self.connect_slice(address)
            PyErr_CheckSignals()
        if progress == FAILED:
            raise OSError(self.error, f"{os.strerror(self.error)}: {address.name}")
        if progress == STALLED:
            if self.connected == 0:
                waited = f"{STALLED_NS // NS_PER_MS} ms"
                raise OSError(_errno.ETIMEDOUT, f"no connection to {address.name} in {waited}")
            self.close_pending()
        close(self.epfd)
        self.epfd = -1
        return 0

    cdef void close_pending(self) noexcept nogil:
        """Close the sockets that are still connecting, so that they can be retried."""
        cdef uint32_t i
        for i in range(self.count):
            if self.state[i] == CONNECTING:
                close(self.fds[i])
                self.fds[i] = -1
                self.state[i] = UNCONNECTED
        self.pending = 0
        self.next_unconnected = 0

    cdef int connect_slice(self, Address address) noexcept nogil:
        """Connect for one slice of time, with at most MAX_PENDING_CONNECTS pending connects.

        A listener whose backlog is full drops the SYN, and the kernel resends it only after a
        second or more. So connects without progress for `retry_ns` are retried with new sockets.
        """
        cdef epoll_event[EPOLL_BATCH] events
        cdef int64_t now = clock()
        cdef int64_t until = now + SLICE_NS
        cdef int i, n, error
        cdef uint32_t before
        cdef uint64_t which
        cdef socklen_t length
        while True:
            before = self.connected
            self.error = self.start_connects(address)
            if self.error:
                return FAILED
            if self.connected == self.count:
                return DONE
            # Nothing pending means a Unix listener with a full backlog: retry soon.
            n = epoll_wait(self.epfd, events, EPOLL_BATCH, 10 if self.pending else 1)
            if n < 0 and errno != EINTR:
                self.error = errno
                return FAILED
            for i in range(n):
                which = events[i].data.u64
                if self.state[which] != CONNECTING:
                    continue
                error = 0
                length = sizeof(error)
                getsockopt(self.fds[which], SOL_SOCKET, SO_ERROR, &error, &length)
                if error:
                    self.error = error
                    return FAILED
                epoll_ctl(self.epfd, EPOLL_CTL_DEL, self.fds[which], NULL)
                self.state[which] = CONNECTED
                self.pending -= 1
                self.connected += 1
            if self.connected == self.count:
                return DONE
            now = clock()
            if self.connected != before:
                self.stalled_at = now + STALLED_NS
                self.retry_at = now + self.retry_ns
            elif now > self.stalled_at:
                return STALLED
            elif now > self.retry_at and self.pending:
                if self.connected == self.connected_at_retry:
                    self.retry_ns *= 2  # a distant server, not a full backlog
                self.connected_at_retry = self.connected
                self.close_pending()
                self.retry_at = now + self.retry_ns
            if now > until or n < 0:
                return CONTINUE

    cdef int start_connects(self, Address address) noexcept nogil:
        """Start connects up to MAX_PENDING_CONNECTS; return 0 or an errno."""
        cdef epoll_event event
        cdef int fd, error, one = 1
        while self.next_unconnected < self.count and self.pending < MAX_PENDING_CONNECTS:
            if self.state[self.next_unconnected] != UNCONNECTED:
                self.next_unconnected += 1
                continue
            fd = socket(address.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
            if fd < 0:
                return errno
            if address.family != AF_UNIX:
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
            error = 0
            if connect(fd, <sockaddr*>&address.raw, address.length) < 0:
                error = errno
            if error == 0:
                self.fds[self.next_unconnected] = fd
                self.state[self.next_unconnected] = CONNECTED
                self.connected += 1
            elif error == EINPROGRESS or error == EINTR:
                event.events = EPOLLOUT
                event.data.u64 = self.next_unconnected
                if epoll_ctl(self.epfd, EPOLL_CTL_ADD, fd, &event) < 0:
                    error = errno
                    close(fd)
                    return error
                self.fds[self.next_unconnected] = fd
                self.state[self.next_unconnected] = CONNECTING
                self.pending += 1
            else:
                close(fd)
                if error == EAGAIN and address.family == AF_UNIX:
                    return 0  # the listener's backlog is full
                return error
            self.next_unconnected += 1
        return 0


cdef class IdleConnections:
    """Connected sockets that send nothing; a context manager that closes them."""
    def __init__(self, host, port, n, *, unix=None):
        if n < 0:
            raise ValueError(f"n is {n}; it must be at least 0")
        self.pool = ConnectionPool(n)
        if n:
            try:
                self.pool.open(resolve(host, port, unix))
            except BaseException:
                self.pool.close_all()
                raise

    def __len__(self):
        """Number of connected sockets."""
        return self.pool.connected

    def ended(self):
        """Number of connections that the server has closed."""
        cdef uint32_t i
        cdef uint32_t ended = 0
        cdef ssize_t got
        cdef char byte
        with nogil:
            for i in range(self.pool.count):
                if self.pool.fds[i] < 0:
                    continue
                got = recv(self.pool.fds[i], &byte, 1, MSG_PEEK | MSG_DONTWAIT)
                if got == 0 or (got < 0 and errno != EAGAIN and errno != EINTR):
                    ended += 1
        return ended

    def close(self):
        """Close them all. A second call does nothing."""
        with nogil:
            self.pool.close_all()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


def open_idle(host, port, n, *, unix=None):
    """Open `n` idle connections; raise OSError (refused, or too few descriptors)."""
    return IdleConnections(host, port, n, unix=unix)

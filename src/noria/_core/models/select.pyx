"""select(2): three sets of bits, which the kernel copies and scans in each wait.

What shaped this file:

- FD_SETSIZE limits the numbers of the descriptors, not how many there are: below 1024.
- One closed descriptor makes select(2) fail with EBADF, without saying which one it is.
- The kernel overwrites the sets, so each wait passes copies.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from noria._core.contract cimport Channel
from noria._core.models.readiness cimport IN, OUT, PLAIN, PRIORITY, Readiness, check_open
from noria._core.sys cimport (
    EBADF, EINTR, F_GETFD, c_fcntl, c_select, errno, fd_set, monotonic_ns, timeval,
)

import errno as errno_names
import os

from noria.errors import ModelLimit

cdef enum:
    FD_LIMIT = 1024             # FD_SETSIZE
    WORDS = FD_LIMIT // 64      # of a set

ctypedef uint64_t[WORDS] Bits


cdef class Select(Readiness):
    """select(2), level-triggered."""

    cdef Bits reading, writing, urgent
    cdef int highest

    def __cinit__(self):
        self.name = "select"
        self.highest = -1
        memset(self.reading, 0, sizeof(Bits))
        memset(self.writing, 0, sizeof(Bits))
        memset(self.urgent, 0, sizeof(Bits))

    cdef int check_watchable(self, int fd, int interest) except -1:
        if fd >= FD_LIMIT:
            raise ModelLimit(
                errno_names.EMFILE,
                f"select cannot watch descriptor {fd}: only numbers below {FD_LIMIT}. "
                "Use the model 'poll', 'epoll' or 'io_uring'",
            )
        return check_open(fd) if interest & PLAIN else 0

    cdef int update(self, Channel channel, int old, int new) except -1:
        cdef int fd = channel.fd
        put_bit(self.reading, fd, new & IN)
        put_bit(self.writing, fd, new & OUT)
        put_bit(self.urgent, fd, new & PRIORITY)
        if new and fd > self.highest:
            self.highest = fd
        elif not new and fd == self.highest:
            while self.highest >= 0 and not (
                    has_bit(self.reading, self.highest) or has_bit(self.writing, self.highest)
                    or has_bit(self.urgent, self.highest)):
                self.highest -= 1
        return 0

    cdef int wait(self, int64_t timeout) except -1:
        cdef Bits reading, writing, urgent
        cdef uint64_t word
        cdef int n, fd, i
        cdef int64_t before
        cdef timeval limit
        cdef timeval *until = NULL
        if timeout >= 0:
            timeout = (timeout + 999) // 1000
            limit.tv_sec = timeout // 1000000
            limit.tv_usec = timeout % 1000000
            until = &limit
        memcpy(reading, self.reading, sizeof(Bits))
        memcpy(writing, self.writing, sizeof(Bits))
        memcpy(urgent, self.urgent, sizeof(Bits))
        self.counters.waits += 1
        before = monotonic_ns()
        with nogil:
            n = c_select(self.highest + 1, <fd_set *>reading, <fd_set *>writing,
                         <fd_set *>urgent, until)
        self.timestamps.requested, self.timestamps.ready = before, monotonic_ns()
        if timeout:
            self.counters.waiting_ns += self.timestamps.ready - before
        if n <= 0:
            self.counters.empty_waits += 1
            if n < 0:
                if errno == EBADF:
                    return self.drop_closed()
                if errno != EINTR:
                    raise OSError(errno, os.strerror(errno), "select")
                PyErr_CheckSignals()
            return 0
        for i in range((self.highest >> 6) + 1):
            word = reading[i] | writing[i] | urgent[i]
            if not word:
                continue
            for fd in range(i * 64, i * 64 + 64):
                if word & (<uint64_t>1 << (fd & 63)) and self.registrations[fd].channel != NULL:
                    self.queue_ready(<Channel>self.registrations[fd].channel,
                                     (IN if has_bit(reading, fd) else 0)
                                     | (OUT if has_bit(writing, fd) else 0)
                                     | (PRIORITY if has_bit(urgent, fd) else 0))
        return 0

    cdef int drop_closed(self) except -1:
        """Drop the registrations of descriptors that their owners have closed."""
        cdef int fd
        for fd in range(self.highest + 1):
            if self.registrations[fd].channel != NULL and c_fcntl(fd, F_GETFD) < 0 \
                    and errno == EBADF:
                self.queue_closed(<Channel>self.registrations[fd].channel)
        return 0


cdef inline bint has_bit(uint64_t *bits, int fd) noexcept:
    return (bits[fd >> 6] >> (fd & 63)) & 1


cdef inline void put_bit(uint64_t *bits, int fd, bint value) noexcept:
    if value:
        bits[fd >> 6] |= <uint64_t>1 << (fd & 63)
    else:
        bits[fd >> 6] &= ~(<uint64_t>1 << (fd & 63))

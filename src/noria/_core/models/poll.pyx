"""poll(2): the kernel copies and scans an array of descriptors in each wait.

What shaped this file:

- The cost of a wait grows with the array, so it has no gaps: the last entry fills the place of one
  that is removed, and a channel's `slot` is its index.
- A closed descriptor is reported as POLLNVAL and makes each poll return at once: its registration
  is dropped.
- ppoll takes its timeout in nanoseconds.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from libc.stdint cimport int64_t

from noria._core.contract cimport Channel
from noria._core.models.readiness cimport (
    HANGUP, IN, OUT, PLAIN, PRIORITY, Readiness, check_open,
)
from noria._core.sys cimport (
    EINTR, POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, c_ppoll, errno, monotonic_ns,
    timespec,
)

import os


cdef class Poll(Readiness):
    """poll(2), level-triggered."""

    def __cinit__(self):
        self.name = "poll"

    def __dealloc__(self):
        PyMem_RawFree(self.fds)

    cdef int check_watchable(self, int fd, int interest) except -1:
        return check_open(fd) if interest & PLAIN else 0

    cdef int update(self, Channel channel, int old, int new) except -1:
        cdef int i
        cdef pollfd *fds
        if old == 0 and new:
            if self.count == self.room:
                i = self.room * 2 + 64
                fds = <pollfd *>PyMem_RawRealloc(self.fds, i * sizeof(pollfd))
                if fds == NULL:
                    raise MemoryError
                self.fds, self.room = fds, i
            channel.slot = self.count
            self.fds[self.count].fd = channel.fd
            self.fds[self.count].revents = 0
            self.count += 1
        elif new == 0:
            if old:
                self.count -= 1
                self.fds[channel.slot] = self.fds[self.count]
                (<Channel>self.registrations[self.fds[channel.slot].fd].channel).slot = channel.slot
                channel.slot = -1
            return 0
        self.fds[channel.slot].events = <short>((POLLIN if new & IN else 0)
                                                | (POLLOUT if new & OUT else 0)
                                                | (POLLPRI if new & PRIORITY else 0))
        return 0

    cdef int wait(self, int64_t timeout) except -1:
        cdef int n, i, io
        cdef bint closed = False
        cdef short found
        cdef int64_t before
        cdef timespec limit
        cdef timespec *until = NULL
        if timeout >= 0:
            limit.tv_sec = timeout // 1000000000
            limit.tv_nsec = timeout % 1000000000
            until = &limit
        self.counters.waits += 1
        before = monotonic_ns()
        with nogil:
            n = c_ppoll(self.fds, self.count, until, NULL)
        self.timestamps.requested, self.timestamps.ready = before, monotonic_ns()
        if timeout:
            self.counters.waiting_ns += self.timestamps.ready - before
        if n <= 0:
            self.counters.empty_waits += 1
            if n < 0:
                if errno != EINTR:
                    raise OSError(errno, os.strerror(errno), "poll")
                PyErr_CheckSignals()
            return 0
        for i in range(self.count):
            found = self.fds[i].revents
            if not found:
                continue
            n -= 1
            if found & POLLNVAL:
                closed = True
                if n == 0:
                    break
                continue
            io = 0
            if found & (POLLIN | POLLHUP | POLLERR):
                io = IN
            if found & (POLLOUT | POLLHUP | POLLERR):
                io |= OUT
            if found & POLLPRI:
                io |= PRIORITY
            if found & (POLLHUP | POLLERR):
                io |= HANGUP
            self.queue_ready(<Channel>self.registrations[self.fds[i].fd].channel, io)
            if n == 0:
                break
        if closed:
            self.drop_closed()
        return 0

    cdef int drop_closed(self) except -1:
        """Drop the registrations of descriptors that their owners have closed."""
        cdef int i
        # From the end, as the last entry of the array fills the place of a dropped one.
        for i in range(self.count - 1, -1, -1):
            if self.fds[i].revents & POLLNVAL:
                self.queue_closed(<Channel>self.registrations[self.fds[i].fd].channel)
        return 0

"""Polling by calling: recv and accept on each non-blocking socket in turn, round after round.

What shaped this file:

- No system call waits for a socket: most calls return EAGAIN, and the process sleeps for `interval`
  between rounds.
- The sleep is a poll(2) of the wake-up pipe alone, so that other threads and signals can end it.
- It shares the array of `poll`, and reports each of its descriptors as ready in each wait.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from noria._core.contract cimport READABLE, Channel
from noria._core.models.poll cimport Poll
from noria._core.models.readiness cimport IN, OUT
from noria._core.sys cimport POLLIN, POLLOUT, c_ppoll, monotonic_ns, pollfd, timespec


cdef class Nonblocking(Poll):
    """Polling in rounds. `interval`: seconds between rounds, 0 for no sleep."""

    cdef int64_t interval_ns

    def __init__(self, double interval=0.001):
        if not 0 <= interval <= 3600:
            raise ValueError(f"interval must be 0 to 3600 seconds, not {interval}")
        self.name = "nonblocking"
        self.interval_ns = <int64_t>(interval * 1e9)

    @property
    def interval(self):
        """Seconds between rounds."""
        return self.interval_ns / 1e9

    cdef int start_run(self) except -1:
        # The pipe ends the sleep between rounds; it is not polled with the sockets.
        if self.wake_reader is None:
            Poll.start_run(self)
            self.unwatch(self.wake_reader, READABLE)
        return 0

    cdef int wait(self, int64_t timeout) except -1:
        cdef int64_t before, sleep = self.interval_ns
        cdef int i, io, woken = 0
        if 0 <= timeout < sleep or self.count == 0:
            sleep = timeout
        if sleep:
            before = monotonic_ns()
            woken = self.sleep(sleep)
            self.counters.waiting_ns += monotonic_ns() - before
        else:
            with nogil:
                pass    # let other threads run
        if self.wake_pending or woken:
            self.empty_pipe(woken)
        PyErr_CheckSignals()
        for i in range(self.count):
            io = (IN if self.fds[i].events & POLLIN else 0) \
                | (OUT if self.fds[i].events & POLLOUT else 0)
            self.queue_ready(<Channel>self.registrations[self.fds[i].fd].channel, io)
        return 0

    cdef int sleep(self, int64_t ns) except -1:
        """Sleep in poll(2) of the pipe alone; return 1 if the pipe ended the sleep."""
        cdef int n
        cdef pollfd pipe
        cdef timespec limit
        cdef timespec *until = NULL
        if ns >= 0:
            limit.tv_sec = ns // 1000000000
            limit.tv_nsec = ns % 1000000000
            until = &limit
        pipe.fd = self.wake_reader.fd
        pipe.events = <short>POLLIN
        self.counters.controls += 1
        with nogil:
            n = c_ppoll(&pipe, 1, until, NULL)
        return 1 if n > 0 else 0

"""Blocking I/O: one connection at a time, with the process asleep in accept or recv.

What shaped this file:

- The kernel copies the data during the sleeping call, so its return is a completion.
- No other thread can end the call: timers and wake-ups are noticed when its time limit
  (SO_RCVTIMEO, at most `SLICE_NS`) has passed.
- accept4 has no flag for a single non-blocking call, as recv has; poll(2) with no timeout takes its
  place.
"""

from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t

from noria._core.contract cimport (
    ACCEPT, ACCEPTED, DONE, RECEIVE, RECEIVED, SEND, Channel, Event, Model, Operation,
)
from noria._core.models.wakeable cimport record_wakeup
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport record_transfer
from noria._core.sys cimport (
    EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, SO_RCVTIMEO, SOCK_CLOEXEC, SOL_SOCKET, F_GETFL,
    F_SETFL, O_NONBLOCK, POLLIN, accept4, c_close, c_fcntl, c_ppoll, errno, monotonic_ns, msghdr,
    pollfd, recv, recvfrom, c_send, sendmsg, setsockopt, sockaddr, sockaddr_storage, socklen_t,
    timespec, timeval,
)

import errno as errno_names

from noria._core.contract import SCRATCH_SIZE
from noria.errors import ModelLimit

cdef enum:
    SLICE_NS = 100000000    # 0.1 s

cdef Py_ssize_t scratch_size = SCRATCH_SIZE


cdef class Blocking(Model):
    """One system call at a time."""

    cdef Channel listener
    cdef list receivers         # the process sleeps in recv of the last one
    cdef sockaddr_storage address
    cdef socklen_t length
    cdef bint woken

    def __cinit__(self):
        self.name = "blocking"
        self.receivers = []

    cdef int tear_down(self) except -1:
        cdef Channel channel
        # A channel that is released later must not be removed again: see `unwatch`.
        if self.listener is not None:
            self.listener.watched = 0
            self.listener = None
        for channel in self.receivers:
            channel.watched = 0
        self.receivers.clear()
        return 0

    cdef int watch(self, Channel channel, int interest) except -1:
        if interest & ~(ACCEPT | RECEIVE | SEND):
            self.require("readiness")
        if self.inherited:
            self.raise_inherited()
        channel.model = self
        c_fcntl(channel.fd, F_SETFL, c_fcntl(channel.fd, F_GETFL) & ~O_NONBLOCK)
        if interest & ACCEPT and not channel.watched & ACCEPT:
            if self.listener is not None:
                raise ModelLimit(
                    errno_names.EBUSY,
                    "blocking can be asleep in one accept only: give one address, or use the "
                    "model 'threaded' or 'epoll'",
                )
            self.listener = channel
        if interest & RECEIVE and not channel.watched & RECEIVE:
            self.receivers.append(channel)
        channel.slot = -1
        channel.watched |= interest
        return 0

    cdef int unwatch(self, Channel channel, int interest) except -1:
        if channel.watched & interest & ACCEPT:
            self.listener = None
        if channel.watched & interest & RECEIVE:
            self.receivers.remove(channel)
        channel.watched &= ~interest
        return 0

    cdef int deliver(self, Channel channel, Event *event) except -1:
        if event.kind == ACCEPTED:
            if channel.watched & ACCEPT:
                self.counters.connections += 1
                return channel.accepted(event.result)
            c_close(event.result)
        elif channel.watched & RECEIVE:
            if event.result < 0:
                return channel.failed(-event.result)
            if event.result:
                self.counters.messages += 1
                self.counters.bytes_in += event.result
            if channel.datagrams:
                return channel.datagram_received(self.scratch, event.result, &self.address,
                                                 self.length)
            return channel.received(self.scratch, event.result)
        return 0

    cdef Py_ssize_t send(self, Channel channel, const char *data, Py_ssize_t n) except? -1:
        cdef Py_ssize_t r, done = 0
        cdef int error
        while done < n:
            self.counters.sends += 1
            with nogil:
                r = c_send(channel.fd, data + done, n - done, MSG_NOSIGNAL)
                error = errno
            self.count_send(channel.fd, r if r >= 0 else -error)
            if r >= 0:
                done += r
            elif error == EINTR:
                PyErr_CheckSignals()
            else:
                return -error
        return done

    cdef Py_ssize_t send_many(self, Channel channel, void *message) except? -1:
        cdef Py_ssize_t r
        cdef int error
        while True:
            self.counters.sends += 1
            with nogil:
                r = sendmsg(channel.fd, <msghdr *>message, MSG_NOSIGNAL)
                error = errno
            self.count_send(channel.fd, r if r >= 0 else -error)
            if r >= 0:
                return r
            if error != EINTR:
                return -error
            PyErr_CheckSignals()

    cdef int submit(self, Operation operation) except -1:
        cdef Py_ssize_t result
        if self.inherited:
            self.raise_inherited()
        operation.pending = True
        with nogil:
            result = operation.perform()
        self.queue.put(operation, DONE, <int>result, NULL)
        return 0

    cdef int wake(self) except -1:
        if not self.woken:
            record_wakeup(self)
        self.woken = True
        return 0

    cdef int wait(self, int64_t timeout) except -1:
        cdef int64_t limit = timeout if 0 <= timeout < SLICE_NS else SLICE_NS
        cdef int64_t end = monotonic_ns() + timeout
        while True:
            self.woken = False
            if self.receivers:
                self.receive(<Channel>self.receivers[len(self.receivers) - 1], limit)
            elif self.listener is not None:
                if timeout or self.has_arrived(self.listener):
                    self.accept(self.listener, limit)
            elif timeout:
                self.sleep(limit)
            if self.queue.count or self.woken or (timeout >= 0 and monotonic_ns() >= end):
                return 0
            if timeout >= 0:
                limit = max(min(end - monotonic_ns(), <int64_t>SLICE_NS), <int64_t>1)

    cdef bint has_arrived(self, Channel channel) except -1:
        """Whether accept would return at once; it must not sleep while the queue has events."""
        cdef pollfd wanted
        cdef timespec at_once
        wanted.fd = channel.fd
        wanted.events = <short>POLLIN
        at_once.tv_sec = at_once.tv_nsec = 0
        self.counters.controls += 1
        return c_ppoll(&wanted, 1, &at_once, NULL) > 0

    cdef int limit_sleep(self, Channel channel, int64_t ns) except -1:
        cdef timeval limit
        cdef int us = <int>(ns // 1000) + 1
        if channel.slot != us:
            channel.slot = us
            limit.tv_sec = us // 1000000
            limit.tv_usec = us % 1000000
            self.counters.controls += 1
            setsockopt(channel.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))
        return 0

    cdef int receive(self, Channel channel, int64_t limit) except -1:
        cdef Py_ssize_t n
        cdef int64_t before = monotonic_ns()
        cdef int flags = 0 if limit else MSG_DONTWAIT
        cdef int error
        if limit:
            self.limit_sleep(channel, limit)
        self.counters.receives += 1
        self.length = sizeof(self.address)
        with nogil:
            if channel.datagrams:
                n = recvfrom(channel.fd, self.scratch, scratch_size, flags,
                             <sockaddr *>&self.address, &self.length)
            else:
                n = recv(channel.fd, self.scratch, scratch_size, flags)
            error = errno
        self.note(before)
        if self.recorder != NULL:
            record_transfer(self.recorder, RecordKind.RECEIVE, channel.fd, n if n >= 0 else -error)
        if n < 0:
            if error == EAGAIN or error == EINTR:
                self.counters.empty_receives += 1
                PyErr_CheckSignals()
                return 0
            n = -error
        self.queue.put(channel, RECEIVED, <int>n, NULL)
        return 0

    cdef int accept(self, Channel channel, int64_t limit) except -1:
        cdef int fd, error
        cdef int64_t before = monotonic_ns()
        self.limit_sleep(channel, limit)
        self.counters.accepts += 1
        with nogil:
            fd = accept4(channel.fd, NULL, NULL, SOCK_CLOEXEC)
            error = errno
        self.counters.waiting_ns += monotonic_ns() - before
        if self.recorder != NULL:
            record_transfer(self.recorder, RecordKind.ACCEPT, channel.fd, fd if fd >= 0 else -error)
        if fd < 0:
            if error == EAGAIN or error == EINTR:
                self.counters.empty_accepts += 1
                PyErr_CheckSignals()
                return 0
            return channel.failed(error)
        self.queue.put(channel, ACCEPTED, fd, NULL)
        return 0

    cdef int note(self, int64_t before) except -1:
        """Record a sleeping call, of which only the begin and the end can be observed."""
        cdef int64_t now = monotonic_ns()
        self.counters.waiting_ns += now - before
        if self.timestamps.requested == 0 or self.timestamps.copy_end:
            self.timestamps.requested = before
        self.timestamps.copy_end = now
        return 0

    cdef int sleep(self, int64_t ns) except -1:
        cdef timespec limit
        cdef int64_t before = monotonic_ns()
        limit.tv_sec = ns // 1000000000
        limit.tv_nsec = ns % 1000000000
        self.counters.controls += 1
        with nogil:
            c_ppoll(NULL, 0, &limit, NULL)
        self.counters.waiting_ns += monotonic_ns() - before
        PyErr_CheckSignals()
        return 0

    cdef int discard(self, Event *event) except -1:
        if event.kind == ACCEPTED:
            c_close(event.result)
        return 0

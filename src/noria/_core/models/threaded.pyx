"""A thread for each connection, asleep in recv; and one for each listener, asleep in accept.

A thread that has received puts the event in the one queue and then asks the dispatcher to drain it:
handlers run on that thread, but never two at a time, so a protocol needs no locks. If another
thread is at it already, that one takes the event too and this one goes back to sleep.

The bytes stay in the thread's own buffer (a parcel) while they wait in the queue. If they are still
there when the thread wants to receive again, it takes a new one, and the old goes with its event.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t

from noria._core.contract cimport (
    ACCEPT, ACCEPTED, READY, RECEIVE, RECEIVED, SEND, Channel, Event, Timestamps,
)
from noria._core.models.wakeable cimport WakeableModel, drain_pipe
from noria._core.sys cimport (
    EAGAIN, EINTR, F_GETFL, F_SETFL, O_NONBLOCK, POLLIN, POLLOUT, SHUT_RDWR, SO_RCVTIMEO,
    SOCK_CLOEXEC, SOL_SOCKET, accept4, c_close, c_fcntl, c_ppoll, c_shutdown, errno, monotonic_ns,
    pollfd, recv, recvfrom, setsockopt, sockaddr, sockaddr_storage, socklen_t, timespec, timeval,
)

import _thread
import errno as errno_names
import time

from noria.errors import ModelLimit

cdef enum:
    BUFFER_SIZE = 64 * 1024
    SLICE_US = 200000       # a listener's thread looks up this often: nothing else can wake it
    READING = 1             # states of a channel: its threads
    WRITING = 2
    REPORTED = 4            # that there is room, and the handlers have not come to it yet
    ENDING_WAIT = 200       # hundredths of a second given to threads at the end

cdef struct ThreadBuffer:
    Timestamps timestamps
    sockaddr_storage address
    socklen_t length
    bint in_queue           # in the queue
    bint abandoned          # its thread has another one: who empties it frees it
    char data[BUFFER_SIZE]


cdef class Threaded(WakeableModel):
    """Threads that sleep so that the process need not."""

    cdef readonly int threads

    def __cinit__(self):
        self.name = "threaded"

    cdef int tear_down(self) except -1:
        cdef int left = 0 if self.inherited else ENDING_WAIT
        while self.threads and left:
            time.sleep(0.01)
            left -= 1
        return WakeableModel.tear_down(self)

    cdef int watch(self, Channel channel, int interest) except -1:
        if interest & ~(ACCEPT | RECEIVE | SEND):
            self.require("readiness")
        if self.inherited:
            self.raise_inherited()
        channel.model = self
        WakeableModel.start_run(self)  # before an accepting thread can take the last descriptors
        if channel.watched == 0:
            c_fcntl(channel.fd, F_SETFL, c_fcntl(channel.fd, F_GETFL) & ~O_NONBLOCK)
        channel.watched |= interest
        try:
            if interest & ACCEPT:
                self.start(channel, READING, self.accept_thread)
            elif interest & RECEIVE:
                self.start(channel, READING, self.receive_thread)
            if interest & SEND:
                self.start(channel, WRITING, self.writable_thread)
        except BaseException:
            channel.watched &= ~interest
            raise
        return 0

    cdef int start(self, Channel channel, int role, function) except -1:
        if channel.state & role:
            return 0
        channel.state |= role
        self.threads += 1
        try:
            _thread.start_new_thread(function, (channel,))
        except (RuntimeError, MemoryError) as error:
            channel.state &= ~role
            self.threads -= 1
            raise ModelLimit(
                errno_names.EAGAIN,
                f"threaded has {self.threads} threads and the machine gives no more ({error}). "
                "Use the model 'epoll' or 'io_uring'",
            ) from None
        return 0

    cdef int finish(self, Channel channel, int role) except -1:
        self.threads -= 1
        channel.state &= ~role
        if channel.releasing and not channel.state & (READING | WRITING):
            channel.released()
        return 0

    cdef int unwatch(self, Channel channel, int interest) except -1:
        channel.watched &= ~interest
        return 0

    cdef int release(self, Channel channel) except -1:
        cdef bint listening = channel.watched & ACCEPT
        channel.releasing = True
        channel.watched = 0
        if self.inherited or not channel.state & (READING | WRITING):
            return channel.released()   # the threads are the parent's
        if not listening:
            # Closing a descriptor wakes nobody who is asleep on it; this does. What was sent
            # before still reaches the peer.
            c_shutdown(channel.fd, SHUT_RDWR)
        return 0

    # What the threads do.

    def receive_thread(self, Channel channel):
        """A connection's thread."""
        cdef ThreadBuffer *buffer = new_buffer()
        cdef Py_ssize_t n = 0
        cdef int error = 0, fd = channel.fd
        cdef bint datagrams = channel.datagrams
        try:
            if datagrams:
                limit_sleep(fd)
            while channel.watched & RECEIVE and not self.closed and not self.inherited:
                buffer.timestamps.requested = monotonic_ns()
                buffer.length = sizeof(buffer.address)
                with nogil:
                    if datagrams:
                        n = recvfrom(fd, buffer.data, BUFFER_SIZE, 0, <sockaddr *>&buffer.address,
                                     &buffer.length)
                    else:
                        n = recv(fd, buffer.data, BUFFER_SIZE, 0)
                    error = errno
                    buffer.timestamps.copy_end = monotonic_ns()
                self.counters.receives += 1
                if n < 0:
                    if error == EINTR or error == EAGAIN:
                        self.counters.empty_receives += 1
                        continue
                    n = -error
                if channel.releasing or self.closed:
                    break
                buffer.in_queue = True
                self.queue.put(channel, RECEIVED, <int>n, buffer)
                self.dispatch()
                if buffer.in_queue:
                    buffer.abandoned = True
                    buffer = new_buffer()
                if n <= 0 and not datagrams:
                    break
        finally:
            PyMem_RawFree(buffer)
            self.finish(channel, READING)

    def accept_thread(self, Channel channel):
        """A listener's thread."""
        cdef int connection, error, fd = channel.fd
        limit_sleep(fd)
        try:
            while channel.watched & ACCEPT and not self.closed and not self.inherited:
                self.counters.accepts += 1
                with nogil:
                    connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC)
                    error = errno
                if connection < 0:
                    if error == EINTR or error == EAGAIN:
                        self.counters.empty_accepts += 1
                        continue
                    connection = -error
                    channel.state |= REPORTED
                elif channel.releasing or self.closed:
                    c_close(connection)
                    break
                self.queue.put(channel, ACCEPTED, connection, NULL)
                self.dispatch()
                self.wait_while(channel, REPORTED)
        finally:
            self.finish(channel, READING)

    def writable_thread(self, Channel channel):
        """The thread of a connection that has more to send than there is room for."""
        cdef pollfd wanted
        wanted.fd = channel.fd
        wanted.events = <short>POLLOUT
        try:
            while channel.watched & SEND and not self.closed and not self.inherited:
                self.counters.waits += 1
                with nogil:
                    c_ppoll(&wanted, 1, NULL, NULL)
                if channel.watched & SEND and not channel.releasing:
                    channel.state |= REPORTED
                    self.queue.put(channel, READY, SEND, NULL)
                    self.dispatch()
                    self.wait_while(channel, REPORTED)
        finally:
            self.finish(channel, WRITING)

    cdef int wait_while(self, Channel channel, int bit) except -1:
        """A handler on another thread keeps the queue: told again and again it is no sooner."""
        cdef timespec limit
        limit.tv_sec, limit.tv_nsec = 0, 1000000
        while channel.state & bit and not channel.releasing and not self.closed:
            with nogil:
                c_ppoll(NULL, 0, &limit, NULL)
        return 0

    cdef int dispatch(self) except -1:
        if self.dispatcher is None:
            return self.wake()
        return self.dispatcher.drain()

    # What the loop's own thread does: timers, wake-ups, and sleep.

    cdef int wait(self, int64_t timeout) except -1:
        cdef pollfd pipe
        cdef timespec limit
        cdef timespec *until = NULL
        cdef int64_t before = monotonic_ns()
        if timeout >= 0:
            limit.tv_sec = timeout // 1000000000
            limit.tv_nsec = timeout % 1000000000
            until = &limit
        pipe.fd = self.wake_reader.fd
        pipe.events = <short>POLLIN
        self.counters.waits += 1
        with nogil:
            c_ppoll(&pipe, 1, until, NULL)
        if timeout:
            self.counters.waiting_ns += monotonic_ns() - before
        drain_pipe(self.wake_reader.fd)
        self.wake_pending = False
        PyErr_CheckSignals()
        return 0

    cdef int deliver(self, Channel channel, Event *event) except -1:
        cdef ThreadBuffer *buffer
        if event.kind == READY:
            channel.state &= ~REPORTED
            if channel.watched & SEND:
                channel.writable()
            return 0
        if event.kind == ACCEPTED:
            if event.result < 0:
                channel.state &= ~REPORTED
                if channel.watched & ACCEPT:
                    channel.failed(-event.result)
            elif channel.watched & ACCEPT:
                self.counters.connections += 1
                channel.accepted(event.result)
            else:
                c_close(event.result)
            return 0
        buffer = <ThreadBuffer *>event.data
        self.timestamps = buffer.timestamps
        try:
            if channel.releasing:
                return 0
            if event.result < 0:
                return channel.failed(-event.result)
            if event.result:
                self.counters.messages += 1
                self.counters.bytes_in += event.result
            if channel.datagrams:
                return channel.datagram_received(buffer.data, event.result, &buffer.address,
                                                 buffer.length)
            return channel.received(buffer.data, event.result)
        finally:
            release_buffer(buffer)

    cdef int discard(self, Event *event) except -1:
        if event.kind == RECEIVED:
            release_buffer(<ThreadBuffer *>event.data)
        elif event.kind == ACCEPTED and event.result >= 0:
            c_close(event.result)
        return 0


cdef ThreadBuffer *new_buffer() except NULL:
    cdef ThreadBuffer *buffer = <ThreadBuffer *>PyMem_RawMalloc(sizeof(ThreadBuffer))
    if buffer == NULL:
        raise MemoryError
    buffer.in_queue = buffer.abandoned = False
    buffer.timestamps.ready = buffer.timestamps.copy_begin = 0
    buffer.timestamps.empty_polls = 0
    return buffer


cdef void release_buffer(ThreadBuffer *buffer) noexcept:
    buffer.in_queue = False
    if buffer.abandoned:
        PyMem_RawFree(buffer)


cdef void limit_sleep(int fd) noexcept:
    cdef timeval limit
    limit.tv_sec = 0
    limit.tv_usec = SLICE_US
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))

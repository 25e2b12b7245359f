"""A thread for each connection, asleep in recv, and one for each listening socket, in accept.

What shaped this file:

- A thread that has received data puts an event into the queue and then dispatches the queue itself.
  Only one thread dispatches at a time, so a protocol needs no locks; if another one does, it also
  takes the new event, and this thread receives again. No message is handed to another thread.
- The bytes stay in the thread's buffer while the event is queued. If it is still queued when the
  thread receives again, the thread takes a new buffer, and the event frees the old one.
- Closing a descriptor does not wake a thread that sleeps on it; shutdown(2) does. A thread in
  accept wakes up after ACCEPT_SLICE_US.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t

from noria._core.contract cimport (
    ACCEPT, ACCEPTED, READY, RECEIVE, RECEIVED, SEND, Channel, Event, Timestamps,
)
from noria._core.models.wakeable cimport WakeableModel
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport record_transfer
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
    ACCEPT_SLICE_US = 200000    # limit of one accept or recvfrom: nothing else ends it
    # Bits of a channel's state.
    READING = 1             # its thread for receiving or accepting runs
    WRITING = 2             # its thread that waits until it is writable runs
    REPORTED = 4            # an event was queued, and is not handled yet
    EXIT_WAIT_CS = 200      # hundredths of a second that tear_down waits for the threads

cdef struct ThreadBuffer:
    Timestamps timestamps
    sockaddr_storage address
    socklen_t length
    bint in_queue           # an event in the queue refers to it
    bint abandoned          # its thread uses another one: freed with its event
    char data[BUFFER_SIZE]


cdef class Threaded(WakeableModel):
    """Blocking calls, each in a thread of its own."""

    cdef readonly int threads

    def __cinit__(self):
        self.name = "threaded"

    cdef int tear_down(self) except -1:
        cdef int left = 0 if self.inherited else EXIT_WAIT_CS
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
                f"threaded has {self.threads} threads and cannot start another one ({error}). "
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
            return channel.released()
        if not listening:
            # Wakes the threads that sleep on the descriptor. Data that was sent before still
            # reaches the peer.
            c_shutdown(channel.fd, SHUT_RDWR)
        return 0

    # The threads.

    def receive_thread(self, Channel channel):
        """The thread of a connection: receive."""
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
                if self.recorder != NULL:
                    record_transfer(self.recorder, RecordKind.RECEIVE, fd, n if n >= 0 else -error)
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
        """The thread of a listening socket: accept."""
        cdef int connection, error, fd = channel.fd
        limit_sleep(fd)
        try:
            while channel.watched & ACCEPT and not self.closed and not self.inherited:
                self.counters.accepts += 1
                with nogil:
                    connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC)
                    error = errno
                if self.recorder != NULL:
                    record_transfer(self.recorder, RecordKind.ACCEPT, fd,
                                    connection if connection >= 0 else -error)
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
        """A second thread of a connection with unsent data: wait until the socket is writable."""
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
        """Sleep until another thread has handled the event of this channel."""
        cdef timespec limit
        limit.tv_sec, limit.tv_nsec = 0, 1000000
        while channel.state & bit and not channel.releasing and not self.closed:
            with nogil:
                c_ppoll(NULL, 0, &limit, NULL)
        return 0

    cdef int dispatch(self) except -1:
        """Have the queue handled, in this thread or in one that does so already."""
        if self.dispatcher is None:
            return self.wake()
        return self.dispatcher.drain()

    # The thread of the loop: timers and wake-ups.

    cdef int wait(self, int64_t timeout) except -1:
        cdef pollfd pipe
        cdef timespec limit
        cdef timespec *until = NULL
        cdef int woken
        cdef int64_t before = monotonic_ns()
        if timeout >= 0:
            limit.tv_sec = timeout // 1000000000
            limit.tv_nsec = timeout % 1000000000
            until = &limit
        pipe.fd = self.wake_reader.fd
        pipe.events = <short>POLLIN
        self.counters.waits += 1
        with nogil:
            woken = c_ppoll(&pipe, 1, until, NULL)
        if timeout:
            self.counters.waiting_ns += monotonic_ns() - before
        self.empty_pipe(woken > 0)
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
    limit.tv_usec = ACCEPT_SLICE_US
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))

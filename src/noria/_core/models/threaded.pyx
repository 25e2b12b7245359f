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
    ACCEPT, ACCEPTED, READY, RECEIVE, RECEIVED, SPACE, Channel, Event, Moments, Waking, empty_pipe,
)
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
    SIZE = 64 * 1024
    SLICE_US = 200000       # a listener's thread looks up this often: nothing else can wake it
    READING = 1             # states of a channel: its threads
    WRITING = 2
    TOLD = 4                # that there is room, and the handlers have not come to it yet
    ENDING_WAIT = 200       # hundredths of a second given to threads at the end

cdef struct Parcel:
    Moments moments
    sockaddr_storage address
    socklen_t length
    bint used               # in the queue
    bint orphan             # its thread has another one: who empties it frees it
    char data[SIZE]


cdef class Threaded(Waking):
    """Threads that sleep so that the process need not."""

    cdef readonly int threads

    def __cinit__(self):
        self.name = "threaded"

    cdef int shut(self) except -1:
        cdef int left = 0 if self.inherited else ENDING_WAIT
        while self.threads and left:
            time.sleep(0.01)
            left -= 1
        return Waking.shut(self)

    cdef int watch(self, Channel channel, int interest) except -1:
        if interest & ~(ACCEPT | RECEIVE | SPACE):
            self.require("readiness")
        if self.inherited:
            self.refuse()
        channel.model = self
        Waking.begin(self)      # before an accepting thread can take the last descriptors
        if channel.watched == 0:
            c_fcntl(channel.fd, F_SETFL, c_fcntl(channel.fd, F_GETFL) & ~O_NONBLOCK)
        channel.watched |= interest
        try:
            if interest & ACCEPT:
                self.start(channel, READING, self.accepting)
            elif interest & RECEIVE:
                self.start(channel, READING, self.receiving)
            if interest & SPACE:
                self.start(channel, WRITING, self.awaiting_room)
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
        if channel.closing and not channel.state & (READING | WRITING):
            channel.released()
        return 0

    cdef int unwatch(self, Channel channel, int interest) except -1:
        channel.watched &= ~interest
        return 0

    cdef int release(self, Channel channel) except -1:
        cdef bint listening = channel.watched & ACCEPT
        channel.closing = True
        channel.watched = 0
        if self.inherited or not channel.state & (READING | WRITING):
            return channel.released()   # the threads are the parent's
        if not listening:
            # Closing a descriptor wakes nobody who is asleep on it; this does. What was sent
            # before still reaches the peer.
            c_shutdown(channel.fd, SHUT_RDWR)
        return 0

    # What the threads do.

    def receiving(self, Channel channel):
        """A connection's thread."""
        cdef Parcel *parcel = new_parcel()
        cdef Py_ssize_t n = 0
        cdef int error = 0, fd = channel.fd
        cdef bint datagrams = channel.datagrams
        try:
            if datagrams:
                limit_sleep(fd)
            while channel.watched & RECEIVE and not self.closed and not self.inherited:
                parcel.moments.asked = monotonic_ns()
                parcel.length = sizeof(parcel.address)
                with nogil:
                    if datagrams:
                        n = recvfrom(fd, parcel.data, SIZE, 0, <sockaddr *>&parcel.address,
                                     &parcel.length)
                    else:
                        n = recv(fd, parcel.data, SIZE, 0)
                    error = errno
                    parcel.moments.copy_end = monotonic_ns()
                self.counters.receives += 1
                if n < 0:
                    if error == EINTR or error == EAGAIN:
                        self.counters.empty_receives += 1
                        continue
                    n = -error
                if channel.closing or self.closed:
                    break
                parcel.used = True
                self.queue.put(channel, RECEIVED, <int>n, parcel)
                self.hand_over()
                if parcel.used:
                    parcel.orphan = True
                    parcel = new_parcel()
                if n <= 0 and not datagrams:
                    break
        finally:
            PyMem_RawFree(parcel)
            self.finish(channel, READING)

    def accepting(self, Channel channel):
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
                    channel.state |= TOLD
                elif channel.closing or self.closed:
                    c_close(connection)
                    break
                self.queue.put(channel, ACCEPTED, connection, NULL)
                self.hand_over()
                self.rest_while(channel, TOLD)
        finally:
            self.finish(channel, READING)

    def awaiting_room(self, Channel channel):
        """The thread of a connection that has more to send than there is room for."""
        cdef pollfd wanted
        wanted.fd = channel.fd
        wanted.events = <short>POLLOUT
        try:
            while channel.watched & SPACE and not self.closed and not self.inherited:
                self.counters.waits += 1
                with nogil:
                    c_ppoll(&wanted, 1, NULL, NULL)
                if channel.watched & SPACE and not channel.closing:
                    channel.state |= TOLD
                    self.queue.put(channel, READY, SPACE, NULL)
                    self.hand_over()
                    self.rest_while(channel, TOLD)
        finally:
            self.finish(channel, WRITING)

    cdef int rest_while(self, Channel channel, int bit) except -1:
        """A handler on another thread keeps the queue: told again and again it is no sooner."""
        cdef timespec limit
        limit.tv_sec, limit.tv_nsec = 0, 1000000
        while channel.state & bit and not channel.closing and not self.closed:
            with nogil:
                c_ppoll(NULL, 0, &limit, NULL)
        return 0

    cdef int hand_over(self) except -1:
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
        empty_pipe(self.wake_reader.fd)
        self.waking = False
        PyErr_CheckSignals()
        return 0

    cdef int deliver(self, Channel channel, Event *event) except -1:
        cdef Parcel *parcel
        if event.kind == READY:
            channel.state &= ~TOLD
            if channel.watched & SPACE:
                channel.writable()
            return 0
        if event.kind == ACCEPTED:
            if event.result < 0:
                channel.state &= ~TOLD
                if channel.watched & ACCEPT:
                    channel.failed(-event.result)
            elif channel.watched & ACCEPT:
                self.counters.connections += 1
                channel.accepted(event.result)
            else:
                c_close(event.result)
            return 0
        parcel = <Parcel *>event.data
        self.moments = parcel.moments
        try:
            if channel.closing:
                return 0
            if event.result < 0:
                return channel.failed(-event.result)
            if event.result:
                self.counters.messages += 1
                self.counters.bytes_in += event.result
            if channel.datagrams:
                return channel.arrived(parcel.data, event.result, &parcel.address, parcel.length)
            return channel.received(parcel.data, event.result)
        finally:
            give_back(parcel)

    cdef int discard(self, Event *event) except -1:
        if event.kind == RECEIVED:
            give_back(<Parcel *>event.data)
        elif event.kind == ACCEPTED and event.result >= 0:
            c_close(event.result)
        return 0


cdef Parcel *new_parcel() except NULL:
    cdef Parcel *parcel = <Parcel *>PyMem_RawMalloc(sizeof(Parcel))
    if parcel == NULL:
        raise MemoryError
    parcel.used = parcel.orphan = False
    parcel.moments.ready = parcel.moments.copy_begin = 0
    parcel.moments.asks = 0
    return parcel


cdef void give_back(Parcel *parcel) noexcept:
    parcel.used = False
    if parcel.orphan:
        PyMem_RawFree(parcel)


cdef void limit_sleep(int fd) noexcept:
    cdef timeval limit
    limit.tv_sec = 0
    limit.tv_usec = SLICE_US
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit))

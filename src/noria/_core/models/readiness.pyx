"""Readiness turned into completion: make the call; on EAGAIN wait for readiness; retry.

The models nonblocking, select, poll and epoll share this code. What shaped this file:

- Receives, sends and accepts may return EAGAIN after a report of readiness (select(2), BUGS), so
  each call is non-blocking, and EAGAIN is no error.
- A new model implements `update`, which registers a descriptor with the kernel, and `wait`, which
  waits and calls `queue_ready`.
- A descriptor may be closed by its owner while it is watched, and its number used again: the
  registrations are a table indexed by number, each with a generation.
- One busy connection must not starve the others: BYTES_PER_TURN and ACCEPTS_PER_TURN limit it.
"""

from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memset

from noria._core.contract cimport (
    ACCEPT, CONNECT, DONE, READABLE, READY, RECEIVE, SEND, URGENT, WRITABLE, Channel, Event,
    Operation,
)
from noria._core.models.wakeable cimport WakeableModel
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport record_transfer
from noria._core.sys cimport (
    EAGAIN, EBADF, ECONNABORTED, EINPROGRESS, EINTR, F_GETFD, F_GETFL, F_SETFL, MSG_DONTWAIT,
    O_NONBLOCK, SO_ERROR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, c_connect, c_fcntl, errno,
    getsockopt, monotonic_ns, recvfrom, sockaddr, sockaddr_storage, socklen_t,
)

import os

from noria._core.contract import SCRATCH_SIZE

cdef enum:
    BYTES_PER_TURN = 1 << 20    # received from one channel
    ACCEPTS_PER_TURN = 64       # from one listening socket
    MAX_DATAGRAMS = 64          # received from one socket before the others have their turn

cdef Py_ssize_t scratch_size = SCRATCH_SIZE


cdef class Readiness(WakeableModel):
    """A model to which the kernel reports readiness. Subclasses implement `update` and `wait`."""

    def __dealloc__(self):
        cdef int fd
        for fd in range(self.table_size):
            if self.registrations[fd].channel != NULL:
                Py_DECREF(<object>self.registrations[fd].channel)
        PyMem_RawFree(self.registrations)

    cdef int start_run(self) except -1:
        WakeableModel.start_run(self)
        if not self.wake_reader.watched:
            self.watch(self.wake_reader, READABLE)
        return 0

    cdef int tear_down(self) except -1:
        cdef int fd
        WakeableModel.tear_down(self)
        for fd in range(self.table_size):
            if self.registrations[fd].channel != NULL:
                (<Channel>self.registrations[fd].channel).watched = 0
                Py_DECREF(<object>self.registrations[fd].channel)
                self.registrations[fd].channel = NULL
        return 0

    cdef int after_fork_in_child(self) except -1:
        # The handler that forked gets no more events in the child.
        cdef int fd
        for fd in range(self.table_size):
            if self.registrations[fd].channel != NULL:
                (<Channel>self.registrations[fd].channel).watched = 0
        return WakeableModel.after_fork_in_child(self)

    # Registrations.

    cdef int update(self, Channel channel, int old, int new) except -1:
        """Change the kernel's registration from `old` to `new` (ReadyBits; 0: none)."""
        raise NotImplementedError

    cdef int check_watchable(self, int fd, int interest) except -1:
        """Raise ModelLimit if this model cannot watch the descriptor, OSError if it is closed."""
        return 0

    cdef int watch(self, Channel channel, int interest) except -1:
        cdef int old = io_bits(channel.watched)
        cdef int new = io_bits(channel.watched | interest)
        if self.closed:
            # The registration would keep the channel and its descriptor.
            return 0
        if self.inherited:
            self.raise_inherited()
        if channel.model is None:
            channel.model = self
        if channel.watched == 0:
            self.check_watchable(channel.fd, interest)
            if interest & ACCEPT:
                c_fcntl(channel.fd, F_SETFL, c_fcntl(channel.fd, F_GETFL) | O_NONBLOCK)
            self.register_channel(channel)
        channel.watched |= interest
        if new != old:
            try:
                self.update(channel, old, new)
            except BaseException:
                channel.watched &= ~interest
                if channel.watched == 0:
                    self.deregister_channel(channel)
                raise
        return 0

    cdef int unwatch(self, Channel channel, int interest) except -1:
        cdef int old = io_bits(channel.watched)
        cdef int new = io_bits(channel.watched & ~interest)
        if not channel.watched & interest:
            return 0
        channel.watched &= ~interest
        if new != old:
            self.update(channel, old, new)
        if channel.watched == 0:
            self.deregister_channel(channel)
        return 0

    cdef bint recv_in_flight(self, Channel channel) noexcept:
        return False

    cdef int register_channel(self, Channel channel) except -1:
        cdef int fd = channel.fd
        cdef int room
        cdef Registration *registrations
        cdef Channel former
        if fd < 0:
            raise ValueError("the channel has no descriptor")
        if fd >= self.table_size:
            room = max(fd + 1, self.table_size * 2, 64)
            registrations = <Registration *>PyMem_RawRealloc(self.registrations,
                                                             room * sizeof(Registration))
            if registrations == NULL:
                raise MemoryError
            memset(&registrations[self.table_size], 0,
                   (room - self.table_size) * sizeof(Registration))
            self.registrations = registrations
            self.table_size = room
        if self.registrations[fd].channel != NULL:
            # The former owner closed its descriptor without unwatching it; the number is in use
            # again.
            former = <Channel>self.registrations[fd].channel
            self.update(former, io_bits(former.watched), 0)
            former.watched = 0
            self.deregister_channel(former)
        Py_INCREF(channel)
        self.registrations[fd].channel = <PyObject *>channel
        self.registrations[fd].generation += 1
        return 0

    cdef int deregister_channel(self, Channel channel) except -1:
        cdef int fd = channel.fd
        if 0 <= fd < self.table_size and self.registrations[fd].channel == <PyObject *>channel:
            self.registrations[fd].channel = NULL
            self.registrations[fd].generation += 1
            Py_DECREF(channel)
        return 0

    # Events.

    cdef int queue_ready(self, Channel channel, int io) except -1:
        """Queue an event for the readiness that the channel is watched for."""
        cdef int mask = 0
        if io & IN:
            mask = channel.watched & (ACCEPT | RECEIVE | READABLE)
        if io & OUT:
            mask |= channel.watched & (SEND | WRITABLE)
        if io & PRIORITY:
            mask |= channel.watched & URGENT
        if mask:
            self.queue.put(channel, READY, mask, <void *><size_t>(io & HANGUP))
        return 0

    cdef int queue_closed(self, Channel channel) except -1:
        """Stop watching a channel whose descriptor was closed by its owner; queue a report.

        If it stayed registered, each wait would return at once (poll) or fail (select).
        """
        cdef int mask = channel.watched
        self.update(channel, io_bits(mask), 0)
        channel.watched = 0
        self.queue.put(channel, READY, mask, <void *><size_t>CLOSED)
        return self.deregister_channel(channel)

    cdef int deliver(self, Channel channel, Event *event) except -1:
        # An earlier handler of this turn may have closed or unwatched the channel.
        cdef int mask = event.result & channel.watched
        cdef bint whole = False
        if mask == RECEIVE and event.data == NULL and not self.edge_triggered \
                and not channel.datagrams:
            return self.receive(channel, False)
        if <size_t>event.data & CLOSED:
            if channel.watched or channel.releasing:
                return 0        # watched again since, or released
            return channel.failed(EBADF)
        if mask & RECEIVE:
            if channel.datagrams:
                if receive_datagrams(self, channel) and self.edge_triggered:
                    self.queue.put(channel, READY, RECEIVE, NULL)
            else:
                try:
                    self.receive(channel, event.data != NULL)
                    whole = True
                finally:
                    # After KeyboardInterrupt the loop may run again; the remaining data causes no
                    # new edge.
                    if not whole and self.edge_triggered and channel.watched & RECEIVE:
                        self.queue.put(channel, READY, RECEIVE, event.data)
            mask &= channel.watched
        if mask & SEND:
            channel.writable()
        if mask & ACCEPT:
            self.accept(channel)
        if mask & (READABLE | WRITABLE | URGENT):
            channel.ready(mask)
        return 0

    cdef int receive(self, Channel channel, bint hangup) except -1:
        cdef Py_ssize_t size = 0, n, budget = BYTES_PER_TURN
        cdef char *place = NULL
        cdef bint reserved
        cdef int error
        while True:
            reserved = channel.reserve(&place, &size)
            if not reserved:
                place, size = self.scratch, scratch_size
            if self.recording:
                self.timestamps.copy_begin = monotonic_ns()
            self.counters.receives += 1
            n = self.kernel_receive(channel.fd, place, size)
            if self.recorder != NULL:
                record_transfer(self.recorder, RecordKind.RECEIVE, channel.fd, n)
            if n < 0:
                error = <int>-n
                if reserved:
                    channel.filled(-1)
                if error == EINTR:
                    continue
                if error == EAGAIN:
                    self.counters.empty_receives += 1
                    if self.recording:
                        if self.timestamps.empty_polls == 0:
                            self.timestamps.requested = self.timestamps.copy_begin
                        self.timestamps.empty_polls += 1
                    return 0
                return channel.failed(error)
            if self.recording:
                self.timestamps.copy_end = monotonic_ns()
            if n:
                self.counters.messages += 1
                self.counters.bytes_in += n
            if reserved:
                channel.filled(n)
            else:
                channel.received(place, n)
            if self.recording:
                self.timestamps.empty_polls = 0
            if not self.edge_triggered or n == 0 or not channel.watched & RECEIVE:
                return 0
            if n < size and not hangup:
                return 0        # all was read: the next byte causes a new edge (epoll(7))
            budget -= n
            if budget <= 0:
                self.queue.put(channel, READY, RECEIVE, <void *><size_t>(HANGUP if hangup else 0))
                return 0

    cdef int accept(self, Channel channel) except -1:
        cdef int fd, _left
        for _left in range(ACCEPTS_PER_TURN):
            self.counters.accepts += 1
            fd = self.kernel_accept(channel.fd, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if self.recorder != NULL:
                record_transfer(self.recorder, RecordKind.ACCEPT, channel.fd, fd)
            if fd < 0:
                if fd == -EINTR or fd == -ECONNABORTED:
                    continue
                if fd == -EAGAIN:
                    self.counters.empty_accepts += 1
                    return 0
                if fd == -EBADF:    # closed by its owner: each accept would fail
                    self.unwatch(channel, channel.watched)
                return channel.failed(-fd)
            self.counters.connections += 1
            channel.accepted(fd)
            if not channel.watched & ACCEPT:
                return 0
        if self.edge_triggered:
            self.queue.put(channel, READY, ACCEPT, NULL)
        return 0

    # Operations.

    cdef int submit(self, Operation operation) except -1:
        if self.inherited:
            self.raise_inherited()
        if operation.kind != CONNECT:
            return WakeableModel.submit(self, operation)
        return start_connect(self, operation)


cdef int check_open(int fd) except -1:
    """Raise OSError (EBADF) if the descriptor is not open."""
    if c_fcntl(fd, F_GETFD) < 0:
        raise OSError(errno, os.strerror(errno), f"descriptor {fd}")
    return 0


cdef bint receive_datagrams(Model model, Channel channel) except -1:
    """Receive up to MAX_DATAGRAMS datagrams; return whether there may be more."""
    cdef sockaddr_storage address
    cdef socklen_t length
    cdef Py_ssize_t n
    cdef int error, _left
    for _left in range(MAX_DATAGRAMS):
        length = sizeof(address)
        model.counters.receives += 1
        n = recvfrom(channel.fd, model.scratch, scratch_size, MSG_DONTWAIT,
                     <sockaddr *>&address, &length)
        error = errno
        if model.recorder != NULL:
            record_transfer(model.recorder, RecordKind.RECEIVE, channel.fd, n if n >= 0 else -error)
        if n < 0:
            if error == EINTR:
                continue
            if error == EAGAIN:
                model.counters.empty_receives += 1
                return False
            if error == EBADF:      # closed by its owner: each receive would fail
                model.unwatch(channel, channel.watched)
                channel.failed(EBADF)
                return False
            channel.failed(error)   # for example ECONNREFUSED of an earlier send
        else:
            model.counters.messages += 1
            model.counters.bytes_in += n
            channel.datagram_received(model.scratch, n, &address, length)
        if not channel.watched & RECEIVE or model.inherited:
            return False
    return True


cdef int start_connect(Model model, object request) except -1:
    """Start a non-blocking connect(2); it has completed when the socket is writable."""
    cdef Operation operation = request
    cdef ConnectChannel channel
    cdef int fd = operation.fd
    operation.pending = True
    c_fcntl(fd, F_SETFL, c_fcntl(fd, F_GETFL) | O_NONBLOCK)
    if c_connect(fd, <sockaddr *>operation.buffer, <socklen_t>operation.size) == 0:
        model.queue.put(operation, DONE, 0, NULL)
    elif errno == EINPROGRESS or errno == EINTR:
        channel = ConnectChannel.__new__(ConnectChannel)
        channel.fd = fd
        channel.operation = operation
        model.watch(channel, SEND)
    else:
        # Includes EAGAIN: a Unix socket whose listener's backlog is full (connect(2)).
        model.queue.put(operation, DONE, -errno, NULL)
    return 0


cdef class ConnectChannel(Channel):
    """A socket whose connect(2) is in progress."""

    cdef Operation operation

    cdef int writable(self) except -1:
        cdef int error = 0
        cdef socklen_t length = sizeof(error)
        cdef Operation operation = self.operation
        self.model.unwatch(self, SEND)
        if operation is None:
            return 0
        self.operation = None
        getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &error, &length)
        if self.model.recorder != NULL:
            record_transfer(self.model.recorder, RecordKind.CONNECT, self.fd, -error)
        self.fd = -1
        return operation.finish(-error)

    cdef int failed(self, int error) except -1:
        cdef Operation operation = self.operation
        self.fd = -1
        if operation is None:
            return 0
        self.operation = None
        return operation.finish(-error)

"""Submit and cancel the requests of channels and operations. uring_requests.pxd has the states.

- Receiving is multishot: one request completes for each arrival, with the bytes in a provided
  buffer. ENOBUFS ends the request and is not an error of the connection: the request is made again
  after the handlers have emptied the buffers.
- So is accepting, but the request is made again after a few connections: the kernel wakes the first
  of those that wait for a listening socket, and one of several processes would get all connections.
- For a connection with large messages the ring only polls, and the message is received in its
  handler's turn, into the object that the handler gets. So it is not copied in the process, and its
  memory is still in the processor's cache. Large messages that the kernel receives for many
  connections in advance are a tenth to a quarter slower.
- A poll request holds a reference to its file: a socket that its user closes while the ring polls
  it stays open, and its peer sees no end. So descriptors that users watch are not polled here; see
  io_uring.pyx.
- Sockets must be in blocking mode: with O_NONBLOCK, requests end with EAGAIN.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t, uint64_t

from noria._core.contract cimport ACCEPT, CONNECT, FSYNC, PREAD
from noria._core.sys cimport MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_CLOEXEC
from noria._core.uring.buffers cimport buffers_free
from noria._core.uring.ring cimport (
    ring_close, ring_enter, ring_next_sqe, ring_setup, ring_sq_used,
)

cdef enum:
    ENTRIES = 1024
    COMPLETIONS = 8192


cdef class RequestModel(WakeableModel):
    """A ring, its buffers, and the requests in flight."""

    def __cinit__(self, bint incremental=True):
        self.ring.fd = -1
        self.initialized = True
        self.deferred = []
        self.buffers.incremental = incremental
        self.open_ring()

    def __dealloc__(self):
        # All fields are zero, the method table too, if a base class's __cinit__ raised.
        if self.initialized:
            ring_close(&self.ring)
            buffers_free(&self.buffers)

    cdef int open_ring(self) except -1:
        """Make a ring that is disabled until the thread that runs the loop enables it."""
        ring_setup(&self.ring, ENTRIES, COMPLETIONS,
                   SETUP_R_DISABLED | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN)
        return 0

    cdef void close_ring(self) noexcept:
        ring_close(&self.ring)
        buffers_free(&self.buffers)

    cdef int enter(self, unsigned min_complete, noria_timespec *timeout) except -1:
        """As ring_enter. Releases the GIL if it waits."""
        self.counters.waits += 1
        return ring_enter(&self.ring, min_complete, timeout, min_complete != 0)

    cdef noria_sqe *prepare(self, Target target, int tag, int opcode, int fd) except NULL:
        """The entry of a new request, which holds a reference to `target` unless TAG_NONE."""
        cdef noria_sqe *sqe
        if self.inherited:
            self.raise_inherited()
        if ring_sq_used(&self.ring) == self.ring.queues.sq_size:
            self.enter(0, NULL)
        sqe = ring_next_sqe(&self.ring, opcode, fd)
        if tag != TAG_NONE:
            Py_INCREF(target)
            self.in_flight += 1
            sqe.user_data = <uint64_t><PyObject *>target | tag
        return sqe

    cdef int prepare_cancel(self, Target target, int tag) except -1:
        """Cancel a request of the target."""
        cdef noria_sqe *sqe
        if tag == TAG_POLL:
            sqe = self.prepare(None, TAG_NONE, OP_POLL_REMOVE, -1)
        else:
            sqe = self.prepare(None, TAG_NONE, OP_ASYNC_CANCEL, -1)
        sqe.addr = <uint64_t><PyObject *>target | tag
        return 0

    # Sends and operations.

    cdef bint send_later(self, Channel channel, const char *data, Py_ssize_t n) except -1:
        cdef noria_sqe *sqe
        if (self.closed or self.inherited or not self.accepts_requests
                or channel.state & SEND_IN_FLIGHT):
            return False
        sqe = self.prepare(channel, TAG_SEND, OP_SEND, channel.fd)
        sqe.addr = <uint64_t>data
        sqe.len = <uint32_t>n
        sqe.op_flags = MSG_DONTWAIT | MSG_NOSIGNAL
        channel.state |= SEND_IN_FLIGHT
        self.sends_in_flight += 1
        self.counters.sends += 1
        return True

    cdef int flush_sends(self) except -1:
        if self.ring.to_submit and self.accepts_requests and not self.inherited:
            self.enter(0, NULL)
        return 0

    cdef int submit(self, Operation operation) except -1:
        if self.inherited:
            self.raise_inherited()
        operation.pending = True
        if not self.accepts_requests:
            self.deferred.append(operation)
            return 0
        return self.prepare_operation(operation)

    cdef int cancel(self, Operation operation) except -1:
        operation.cancelled = True
        if operation.pending and self.accepts_requests and not self.inherited:
            self.prepare_cancel(operation, TAG_OPERATION)
        return 0

    cdef int prepare_operation(self, Operation operation) except -1:
        cdef noria_sqe *sqe
        self.operations_in_flight += 1
        if operation.kind == CONNECT:
            make_blocking(operation.fd)
            sqe = self.prepare(operation, TAG_OPERATION, OP_CONNECT, operation.fd)
            sqe.addr = <uint64_t>operation.buffer
            sqe.off = operation.size
            return 0
        if operation.kind == FSYNC:
            self.prepare(operation, TAG_OPERATION, OP_FSYNC, operation.fd)
            return 0
        sqe = self.prepare(operation, TAG_OPERATION,
                           OP_READ if operation.kind == PREAD else OP_WRITE, operation.fd)
        sqe.addr = <uint64_t>operation.buffer
        sqe.len = <uint32_t>operation.size
        sqe.off = operation.offset
        return 0

    # Requests of channels.

    cdef int arm(self, Channel channel) except -1:
        """Submit the requests that `channel.watched` needs and that are not in flight."""
        cdef noria_sqe *sqe
        cdef int mask
        if self.inherited:
            return 0
        if not self.accepts_requests:
            self.deferred.append(channel)
            return 0
        if (channel.watched & RECEIVE and not channel.datagrams
                and not channel.state & RECV_IN_FLIGHT):
            self.arm_recv(channel)
        if channel.watched & ACCEPT and not channel.state & ACCEPT_IN_FLIGHT:
            sqe = self.prepare(channel, TAG_ACCEPT, OP_ACCEPT, channel.fd)
            sqe.ioprio = ACCEPT_MULTISHOT
            sqe.op_flags = SOCK_CLOEXEC
            channel.state |= ACCEPT_IN_FLIGHT
        mask = poll_mask(channel)
        if mask and not channel.state & POLL_IN_FLIGHT:
            sqe = self.prepare(channel, TAG_POLL, OP_POLL_ADD, channel.fd)
            sqe.op_flags = mask
            channel.state |= POLL_IN_FLIGHT
            channel.slot = mask
        elif mask != channel.slot:
            # When the old poll has ended, `deliver` calls this again, which polls for the new mask.
            self.cancel_once(channel, POLL_IN_FLIGHT, TAG_POLL)
        return 0

    cdef int arm_recv(self, Channel channel) except -1:
        cdef noria_sqe *sqe
        channel.state |= RECV_IN_FLIGHT
        if channel.expects_large():
            channel.state |= RECV_BY_POLL
            sqe = self.prepare(channel, TAG_RECV_POLL, OP_POLL_ADD, channel.fd)
            sqe.op_flags = POLLIN
        else:
            sqe = self.prepare(channel, TAG_RECV, OP_RECV, channel.fd)
            sqe.ioprio = RECV_MULTISHOT
            sqe.flags = SQE_BUFFER_SELECT
        return 0

    cdef int disarm(self, Channel channel) except -1:
        """Cancel the requests that `channel.watched` no longer needs."""
        if not channel.watched & RECEIVE:
            self.cancel_once(channel, RECV_IN_FLIGHT, recv_tag(channel))
        if not channel.watched & ACCEPT:
            self.cancel_once(channel, ACCEPT_IN_FLIGHT, TAG_ACCEPT)
        if poll_mask(channel) != channel.slot:
            self.cancel_once(channel, POLL_IN_FLIGHT, TAG_POLL)
        return 0

    cdef int cancel_once(self, Channel channel, int request, int tag) except -1:
        """Cancel a request that is in flight, unless it is being cancelled already."""
        if channel.state & request and not channel.state & request << CANCEL_SHIFT \
                and self.accepts_requests and not self.inherited:
            channel.state |= request << CANCEL_SHIFT
            self.prepare_cancel(channel, tag)
        return 0

    cdef int arm_deferred(self) except -1:
        """Submit the requests that were deferred between two runs."""
        cdef Operation operation
        cdef Channel channel
        while self.deferred:
            target = self.deferred[len(self.deferred) - 1]
            if isinstance(target, Operation):
                operation = <Operation>target
                self.prepare_operation(operation)
                if operation.cancelled:
                    self.prepare_cancel(operation, TAG_OPERATION)
            else:
                channel = <Channel>target
                if channel.watched and not channel.releasing:
                    self.arm(channel)
            self.deferred.pop()
        return 0

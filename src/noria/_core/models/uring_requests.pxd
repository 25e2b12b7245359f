"""The requests that channels and operations have in flight on a ring.

A request holds a reference to its target until the kernel's last completion, and the target holds
its descriptor: its number cannot be reused while a request for it is in flight.
"""

from noria._core.contract cimport READABLE, RECEIVE, SEND, Channel, Operation, Target
from noria._core.models.wakeable cimport WakeableModel
from noria._core.sys cimport F_GETFL, F_SETFL, O_NONBLOCK, POLLIN, POLLOUT, c_fcntl
from noria._core.uring.abi cimport *
from noria._core.uring.buffers cimport BufferRing
from noria._core.uring.ring cimport Ring

cdef enum:
    # What a request is for: the low bits of its user_data, which are zero in a pointer.
    TAG_NONE = 0
    TAG_RECV = 1                # multishot, into the provided buffers
    TAG_ACCEPT = 2
    TAG_POLL = 3
    TAG_OPERATION = 4
    TAG_RECV_POLL = 5           # a poll: large messages are received when it completes
    TAG_SEND = 6
    TAG_EPOLL = 7
    TAG_MASK = 7

    # Channel.state: its requests in flight, and which of them are being cancelled.
    RECV_IN_FLIGHT = 1
    ACCEPT_IN_FLIGHT = 2
    POLL_IN_FLIGHT = 4
    CANCEL_SHIFT = 3            # RECV_IN_FLIGHT << CANCEL_SHIFT: it is being cancelled, and so on
    RECV_BY_POLL = 64           # the RECV_IN_FLIGHT is a TAG_RECV_POLL
    SEND_IN_FLIGHT = 128
    ANY_IN_FLIGHT = 128 + 7
    CLOSE_PENDING = 256         # counted in `closing_channels`
    RECV_DATA_QUEUED = 512      # received data is in the queue while a run ends


cdef class RequestModel(WakeableModel):
    cdef bint initialized           # __cinit__ has set the ring's descriptor
    cdef bint accepts_requests      # the thread of the ring is in a run, or requests remain of one
    cdef Ring ring
    cdef BufferRing buffers
    cdef list deferred              # channels and operations to submit requests for in the next run
    cdef Py_ssize_t in_flight       # requests with a target
    cdef Py_ssize_t operations_in_flight
    cdef unsigned sends_in_flight   # complete in the call that submits them
    cdef int open_ring(self) except -1
    cdef void close_ring(self) noexcept
    cdef int enter(self, unsigned min_complete, noria_timespec *timeout) except -1
    cdef noria_sqe *prepare(self, Target target, int tag, int opcode, int fd) except NULL
    cdef int prepare_cancel(self, Target target, int tag) except -1
    cdef int prepare_operation(self, Operation operation) except -1
    cdef int arm(self, Channel channel) except -1
    cdef int arm_recv(self, Channel channel) except -1
    cdef int disarm(self, Channel channel) except -1
    cdef int arm_deferred(self) except -1
    cdef int cancel_once(self, Channel channel, int request, int tag) except -1


cdef inline int recv_tag(Channel channel) noexcept:
    return TAG_RECV_POLL if channel.state & RECV_BY_POLL else TAG_RECV


cdef inline int poll_mask(Channel channel) noexcept:
    """The events that the ring polls a channel for. READABLE: the pipe that wakes the loop."""
    cdef int mask = 0
    if channel.watched & READABLE or (channel.watched & RECEIVE and channel.datagrams):
        mask = POLLIN
    if channel.watched & SEND:
        mask |= POLLOUT
    return mask


cdef inline void make_blocking(int fd) noexcept:
    cdef int flags = c_fcntl(fd, F_GETFL)
    if flags & O_NONBLOCK:
        c_fcntl(fd, F_SETFL, flags & ~O_NONBLOCK)

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from noria._core.contract cimport Channel, Event, Model
from noria._core.models.wakeable cimport WakeableModel

cdef enum ReadyBits:    # the kernel's report
    IN = 1
    OUT = 2
    PRIORITY = 4
    HANGUP = 8          # with IN: read until the end, as a short read is not the last one
    CLOSED = 16         # the owner closed the descriptor without unwatching it

cdef struct Registration:
    PyObject *channel   # owned
    uint32_t generation

cdef class Readiness(WakeableModel):
    cdef Registration *registrations  # indexed by descriptor number
    cdef int table_size
    cdef bint edge_triggered  # readiness is reported once, so read until EAGAIN
    cdef int update(self, Channel channel, int old, int new) except -1
    cdef int register_channel(self, Channel channel) except -1
    cdef int deregister_channel(self, Channel channel) except -1
    cdef int queue_ready(self, Channel channel, int io) except -1
    cdef int receive(self, Channel channel, bint hangup) except -1
    cdef int accept(self, Channel channel) except -1
    cdef int check_watchable(self, int fd, int interest) except -1
    cdef int queue_closed(self, Channel channel) except -1

cdef enum:
    PLAIN = 8 | 16 | 32     # READABLE, WRITABLE, URGENT: interests of descriptors that users watch

cdef inline int io_bits(int watched) noexcept:
    """The ReadyBits for which a channel with these Interest bits is watched."""
    return ((IN if watched & (1 | 2 | 8) else 0) | (OUT if watched & (4 | 16) else 0)
            | (PRIORITY if watched & 32 else 0))

cdef inline int plain_interests(int io) noexcept:
    """The Interest bits of a user's descriptor that these ReadyBits stand for."""
    return (8 if io & IN else 0) | (16 if io & OUT else 0) | (32 if io & PRIORITY else 0)

cdef int check_open(int fd) except -1
cdef bint receive_datagrams(Model model, Channel channel) except -1
cdef int start_connect(Model model, object operation) except -1

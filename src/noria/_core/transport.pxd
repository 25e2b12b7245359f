from libc.stdint cimport uint64_t

from noria._core.contract cimport Channel, Event
from noria._core.loop cimport Loop
from noria._core.sys cimport iovec

cdef enum:
    CONNECTION_LOST = 1     # result of the CALL event after which connection_lost is called
    HIGH_WATER = 64 * 1024  # bytes, as in asyncio
    LOW_WATER = 16 * 1024

cdef tuple checked_limits(object high, object low)

cdef class DirectProtocol:
    cdef bint enabled           # false if a Python subclass overrides data_received
    cdef bint wants_objects     # large messages are passed to feed_bytes
    cdef int feed(self, const char *data, Py_ssize_t n) except -1
    cdef int feed_bytes(self, bytes data) except -1

cdef class StreamSet:
    cdef set streams
    cdef public object on_open          # on_open(stream) or None
    cdef public object on_close         # on_close(stream, error) or None
    cdef object on_descriptor_freed     # called once, when a stream has closed its descriptor
    cdef int add(self, TransportChannel stream) except -1
    cdef int discard(self, TransportChannel stream) except -1

cdef class TransportChannel(Channel):
    cdef object protocol                # None after connection_lost was called
    cdef Loop loop
    cdef unsigned char closing          # close was called
    cdef unsigned char closed           # nothing more is sent or received
    cdef unsigned char socket_owns_fd   # a Python socket has the descriptor too, and closes it
    cdef object error                   # the argument of connection_lost
    cdef int close_errno                # of the error that has ended the connection, or 0
    cdef object extra                   # the dict of get_extra_info, made when first needed
    cdef int force_close(self, object error) except -1
    cdef int call_connection_lost(self) except -1
    cdef int discard_unsent(self) except -1
    cdef int drop_protocol(self) except -1
    cdef int finish_close(self, object error) except -1
    cdef int detach_socket(self) except -1
    cdef int note(self, int kind, uint64_t value) noexcept

cdef class WriteBuffer:
    cdef list parts                 # bytes objects that are not sent, or None
    cdef Py_ssize_t first, offset   # the first unsent byte: index in `parts`, and offset there
    cdef Py_ssize_t high, low       # limits of the unsent bytes; see set_write_buffer_limits
    cdef object empty_waiter        # a future, done when all written data is sent, or None
    cdef int append(self, bytes part) except -1
    cdef int first_parts(self, iovec *found, int limit) except -1
    cdef int remove_sent(self, Py_ssize_t sent) except -1

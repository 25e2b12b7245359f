from noria._core.contract cimport Channel, Event
from noria._core.loop cimport Loop

cdef enum:
    CONNECTION_LOST = 1     # result of the CALL event after which connection_lost is called

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
    cdef object extra                   # the dict of get_extra_info, made when first needed
    cdef int force_close(self, object error) except -1
    cdef int call_connection_lost(self) except -1
    cdef int discard_unsent(self) except -1
    cdef int drop_protocol(self) except -1
    cdef int finish_close(self, object error) except -1
    cdef int detach_socket(self) except -1

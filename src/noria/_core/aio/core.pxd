from noria._core.aio.descriptor cimport Descriptor
from noria._core.aio.scheduler cimport Scheduler

cdef class Core(Scheduler):
    # called with a connection, returns the transport of its protocol; sets `transport_class`
    cdef public object make_transport
    # the class of the connections' transports; None before the first of them
    cdef public object transport_class
    # whether some sockets have asyncio's own transports
    cdef public bint has_selector_transports
    # descriptor number -> Descriptor
    cdef dict descriptors
    # descriptor number -> the open Connection, a borrowed reference
    cdef void **fd_transports
    cdef Py_ssize_t fd_transports_size
    cdef Descriptor descriptor(self, int fd)
    cdef int registered_number(self, object fileobj) except? -1
    cdef int set_fd_transport(self, int fd, object connection) except -1
    cdef object fd_transport(self, int fd)
    cdef int notify_flow_control(self, object protocol, object transport, bint full) except -1
    cdef int connect_protocol(self, object protocol, object transport) except -1

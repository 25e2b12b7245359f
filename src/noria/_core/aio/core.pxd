from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from noria._core.aio.descriptor cimport Descriptor
from noria._core.loop cimport Loop
from noria._core.timers cimport Handle

cdef enum:
    SPARES = 64
    MAX_DEFERRED_WRITES = 64  # writes that may be held at a time

cdef class Core(Loop):
    cdef bint debugging
    cdef bint clocked                   # `time` was replaced: timers run by what it says
    cdef public object make_transport   # make_transport(connection): what its protocol will know
    cdef public bint has_selector_transports    # some connections have asyncio's own transports
    cdef dict descriptors               # number -> Descriptor
    cdef void **fd_transports           # number -> the open Connection; borrowed
    cdef Py_ssize_t fd_transports_size
    cdef PyObject *spare_handles[64]    # of which nobody kept a reference; owned
    cdef int spares
    cdef list corked                    # connections that hold a write until the turn's end
    cdef unsigned deferred_writes       # writes that were held in this turn
    cdef int64_t deferring_since        # the tick of the first of these
    cdef unsigned turns
    cdef int end_turn(self) except -1
    cdef bint may_defer_write(self) except -1
    cdef int flush_deferred_writes(self) except -1
    cdef int handle_all(self) except -1
    cdef int turn_until_error(self) except -1
    cdef int handle_callback_error(self, object error) except -1
    cdef Descriptor descriptor(self, int fd)
    cdef int registered_number(self, object fileobj) except? -1
    cdef Handle later(self, object callback, tuple args, object context)
    cdef int set_fd_transport(self, int fd, object connection) except -1
    cdef object fd_transport(self, int fd)
    cdef int report_exception(self, str message, object error, dict more) except -1
    cdef int notify_flow_control(self, object protocol, object transport, bint full) except -1
    cdef int connect_protocol(self, object protocol, object transport) except -1

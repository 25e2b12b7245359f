from noria._core.aio.client_count cimport ClientCount
from noria._core.aio.core cimport Core
from noria._core.stream cimport Stream

cdef class Connection(Stream):
    # the contextvars.Context in which the protocol's methods run
    cdef object context
    # the socket object of a caller that may close it, or None
    cdef object caller_socket
    # None after connection_lost
    cdef readonly object transport
    cdef ClientCount server
    # done after connection_made
    cdef object waiter
    # corked data as one object, or the data that the model's send_later has
    cdef bytes deferred_write
    # writes several times in a turn: see connection.pyx
    cdef unsigned char bursty
    # the outgoing data is sent at the end of this turn
    cdef unsigned char corked
    # number of bytes that fit into deferred_write if several writes are corked, else 0
    cdef unsigned short corked_capacity
    cdef unsigned last_write_turn
    cdef int start_outgoing(self, bytes data) except -1
    cdef bint cork(self, data) except -1
    cdef int append_corked(self, bytes part, Py_ssize_t n) except -1
    cdef void trim_corked(self) noexcept
    cdef int uncork(self) except -1
    cdef int flush_corked(self, bytes data) except -1
    cdef bint defer_write(self, data) except -1
    cdef bint coalesce(self) except -1
    cdef int send_deferred_write(self) noexcept
    cdef int call_connection_made(self) except -1
    cdef bint closed_by_caller(self) except -1
    cdef int forget_fd(self) noexcept
    cdef int close_unreferenced(self) except -1
    cdef int store_addresses(self) except -1
    cdef bint find_address(self, name) except -1

cdef Connection new_connection(Core core, int fd, object protocol, ClientCount server,
                               bint set_nodelay, object context)

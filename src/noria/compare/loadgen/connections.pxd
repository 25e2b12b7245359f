# cython: language_level=3
from libc.stdint cimport int64_t, uint8_t, uint32_t

from noria.compare.loadgen.kernel cimport sockaddr_storage, socklen_t


cdef class Address:
    cdef sockaddr_storage raw
    cdef socklen_t length
    cdef int family
    cdef readonly str name


cdef class ConnectionPool:
    cdef int* fds
    cdef uint8_t* state  # UNCONNECTED, CONNECTING, CONNECTED
    cdef int epfd
    cdef uint32_t count
    cdef uint32_t connected
    cdef uint32_t pending
    cdef uint32_t next_unconnected  # no earlier socket is UNCONNECTED
    cdef int64_t retry_ns
    cdef int64_t retry_at
    cdef int64_t stalled_at
    cdef uint32_t connected_at_retry
    cdef int error

    cdef void close_all(self) noexcept nogil
    cdef int open(self, list addresses) except -1
    cdef int connect_all(self, Address address) except -1
    cdef void close_pending(self) noexcept nogil
    cdef int connect_slice(self, Address address) noexcept nogil
    cdef int start_connects(self, Address address) noexcept nogil


cdef class IdleConnections:
    cdef ConnectionPool pool

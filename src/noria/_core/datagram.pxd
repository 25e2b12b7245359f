from noria._core.loop cimport Loop
from noria._core.transport cimport TransportChannel

cdef class DatagramChannel(TransportChannel):
    cdef object sock                # a socket.socket: it converts addresses, and is closed last
    cdef object unsent              # a deque of (bytes, address)
    cdef Py_ssize_t unsent_bytes
    cdef int open(self, Loop loop, object sock, object protocol) except -1
    cdef bint try_send(self, object data, object address) except -1
    cdef int keep_unsent(self, bytes data, object address) except -1
    cdef int unsent_removed(self, object data) except -1

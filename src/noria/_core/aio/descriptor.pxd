from noria._core.contract cimport Channel, Model

cdef object receive_now(Model model, int fd, Py_ssize_t n)

cdef class Descriptor(Channel):
    # the loop
    cdef object core
    # handles, compiled or asyncio's own, or None
    cdef object reader
    cdef object writer
    # the future of a pending sock_recv, and its limit
    cdef object receiver
    cdef Py_ssize_t max_bytes
    # whether the watch continues between two calls of sock_recv
    cdef bint keeps_watch
    # the object that was registered: it can be removed by it after it was closed
    cdef object fileobj
    # a weak reference to the socket that the watch was started for
    cdef object socket_ref
    cdef int receive(self) except -1
    cdef int clear_receiver(self) except -1
    cdef int start_receive(self, object sock, object future, Py_ssize_t max_bytes) except -1
    cdef int add(self, int interest, object handle) except -1
    cdef bint remove(self, int interest) except -1
    cdef int call_handle(self, object handle) except -1

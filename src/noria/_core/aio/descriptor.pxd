from noria._core.contract cimport Channel, Model

cdef object receive_now(Model model, int fd, Py_ssize_t n)

cdef class Descriptor(Channel):
    cdef object core                # the loop
    cdef object reader              # handles, compiled or asyncio's own, or None
    cdef object writer
    cdef object receiver            # the future of a sock_recv that waits
    cdef Py_ssize_t wanted          # bytes it takes at most
    cdef bint lasting               # stays watched between two sock_recv
    cdef object fileobj             # what it was registered by: asyncio finds it by that too
    cdef object of                  # a weak reference to the socket that the kernel was told of
    cdef int receive(self) except -1
    cdef int forget_receiver(self) except -1
    cdef int expect(self, object sock, object future, Py_ssize_t wanted) except -1
    cdef int add(self, int interest, object handle) except -1
    cdef bint remove(self, int interest) except -1
    cdef int call(self, object handle) except -1

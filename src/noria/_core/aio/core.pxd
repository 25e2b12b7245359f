from noria._core.contract cimport Target
from noria._core.loop cimport Loop
from noria._core.timers cimport Handle

cdef class Core(Loop):
    cdef bint debugging
    cdef public object make_transport   # make_transport(connection): what its protocol will know
    cdef dict descriptors               # number -> Descriptor
    cdef void **owners                  # number -> the open Connection; borrowed
    cdef Py_ssize_t seats
    cdef Handle later(self, object callback, tuple args, object context)
    cdef int own(self, int fd, object connection) except -1
    cdef object owner(self, int fd)
    cdef int told(self, str message, object error, dict more) except -1

from libc.stdint cimport int64_t

cpdef object read_cached(int fd, Py_ssize_t size, int64_t offset)

cdef class CachedReader:
    cdef int64_t bytes_left         # of this turn of the loop
    cdef int reads_left
    cdef bint exhausted             # until the next turn
    cdef object call_soon, reset_method
    cdef bint admit(self, Py_ssize_t size) except -1
    cpdef read_cached(self, int fd, Py_ssize_t size, int64_t offset)

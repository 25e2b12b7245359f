from noria._core.sys cimport iovec

cdef enum:
    HIGH_WATER = 64 * 1024      # bytes, as in asyncio
    LOW_WATER = 16 * 1024

cdef class WriteBuffer:
    cdef list parts                 # bytes objects that are not sent, or None
    cdef Py_ssize_t first, offset   # the first unsent byte: index in `parts`, and offset there
    cdef Py_ssize_t high, low       # limits of the unsent bytes; see set_write_buffer_limits
    cdef object empty_waiter        # a future, done when all written data is sent, or None
    cdef int append(self, bytes part) except -1
    cdef int first_parts(self, iovec *found, int limit) except -1
    cdef int remove_sent(self, Py_ssize_t sent) except -1

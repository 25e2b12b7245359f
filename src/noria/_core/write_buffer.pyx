"""What a stream needs once its socket has not taken all data, or its limits have been changed.

A connection that is idle, or whose peer always receives in time, has none of it: made on demand, it
costs such a connection a pointer.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from noria._core.sys cimport iovec

cdef enum:
    MAX_SENT_ENTRIES = 1024     # None entries at the front of `parts`, before they are removed


cdef class WriteBuffer:
    """Unsent data and its limits."""

    def __cinit__(self):
        self.high = HIGH_WATER
        self.low = LOW_WATER

    cdef int append(self, bytes part) except -1:
        """Append unsent data, by reference."""
        if self.parts is None:
            self.parts = []
            self.first = self.offset = 0
        self.parts.append(part)
        return 0

    cdef int first_parts(self, iovec *found, int limit) except -1:
        """Store the memory of the first unsent parts; return their number."""
        cdef bytes part
        cdef int i
        cdef int count = <int>min(<Py_ssize_t>limit, len(self.parts) - self.first)
        for i in range(count):
            part = self.parts[self.first + i]
            found[i].iov_base = PyBytes_AS_STRING(part)
            found[i].iov_len = PyBytes_GET_SIZE(part)
        found[0].iov_base = <char *>found[0].iov_base + self.offset
        found[0].iov_len -= self.offset
        return count

    cdef int remove_sent(self, Py_ssize_t sent) except -1:
        """Remove the first `sent` bytes."""
        cdef Py_ssize_t size
        sent += self.offset
        while self.first < len(self.parts):
            size = PyBytes_GET_SIZE(<bytes>self.parts[self.first])
            if sent < size:
                break
            sent -= size
            self.parts[self.first] = None
            self.first += 1
        self.offset = sent
        if self.first == len(self.parts):
            self.parts = None
        elif self.first >= MAX_SENT_ENTRIES:
            del self.parts[:self.first]
            self.first = 0
        return 0

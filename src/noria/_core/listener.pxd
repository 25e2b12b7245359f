from noria._core.contract cimport Channel
from noria._core.loop cimport Loop
from noria._core.transport cimport StreamSet

cdef class AcceptChannel(Channel):
    cdef Loop loop
    cdef object factory             # makes a protocol for each connection
    cdef object retry_timer         # resumes accepting, or None
    cdef double retry_delay         # seconds
    cdef int report_exhausted(self, int error) except -1
    cdef int cancel_retry(self) except -1

cdef class Listener(AcceptChannel):
    cdef readonly StreamSet group
    cdef object address
    cdef bint tcp
    cdef bint exhausted             # reported, and no connection has been accepted since

from noria._core.models.readiness cimport Readiness
from noria._core.sys cimport pollfd

cdef class Poll(Readiness):
    cdef pollfd *fds
    cdef int count
    cdef int room
    cdef int drop_closed(self) except -1

from noria._core.contract cimport Channel
from noria._core.models.readiness cimport Readiness
from noria._core.sys cimport epoll_event

cdef enum:
    EVENTS = 1024

cdef class Epoll(Readiness):
    cdef int epfd
    cdef bint initialized
    cdef epoll_event events[EVENTS]
    cdef int control(self, Channel channel, int old, int new, epoll_event *event) except -1
    cdef int register_again(self, Channel channel, int old, int new, epoll_event *event) noexcept
    cdef int update_edge(self, Channel channel, int old, int new) except -1
    cdef int renew(self) except -1

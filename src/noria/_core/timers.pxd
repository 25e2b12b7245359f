from libc.stdint cimport int64_t, uint64_t

from noria._core.contract cimport Event, Target

cdef class Handle(Target):
    cdef object callback
    cdef object args
    cdef object context         # a contextvars.Context, or None for the loop's own
    cdef bint dropped
    cpdef cancel(self)

cdef class Timer(Handle):
    cdef double moment          # seconds, as they were given
    cdef int64_t when_ns
    cdef Py_ssize_t place       # in the heap, -1 when not in it
    cdef Timers timers

cdef struct Entry:
    int64_t when
    uint64_t order              # equal deadlines fire in the order they were set
    void *timer

cdef class Timers:
    cdef Entry *heap
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t room
    cdef uint64_t order
    cdef int add(self, Timer timer) except -1
    cdef int remove(self, Timer timer) except -1
    cdef Timer pop(self)
    cdef void rise(self, Py_ssize_t i, Entry entry) noexcept
    cdef void sink(self, Py_ssize_t i, Entry entry) noexcept
    cdef int clear(self) except -1

from libc.stdint cimport int64_t, uint64_t

from noria._core.contract cimport Event, Target

cdef class Handle(Target):
    cdef object callback
    cdef object args
    cdef object context         # a contextvars.Context; None: the loop's own; or EMPTY
    cdef bint dropped
    cdef object __weakref__
    cdef int drop(self) except -1

cdef class ThreadSafeHandle(Handle):
    cdef unsigned long runner   # the thread that runs the callback, while `runs`
    cdef bint runs
    cdef list waiters           # a locked lock for each thread that waits
    cdef int finish(self) except -1
    cdef int wait_until_done(self) except -1

cdef class Timer(Handle):
    cdef double moment          # seconds, as they were given; of a fresh one, its delay
    cdef int64_t when_ns        # of a fresh one, the coarse time at which it was set
    cdef uint64_t order
    cdef Py_ssize_t position    # in the heap; -1: nowhere; -2 and below: among the fresh ones
    cdef void *timers           # borrowed: while it has a place there, they are there

cdef object current_context()
cdef Timer new_timer()
cdef int64_t nanoseconds(double seconds) noexcept

cdef struct Entry:
    int64_t when
    uint64_t order              # equal deadlines fire in the order they were set
    void *timer

cdef class Timers:
    cdef Entry *heap
    cdef readonly Py_ssize_t count
    cdef Py_ssize_t capacity
    cdef uint64_t order
    cdef void **deferred        # timers set in this turn whose delay begins at its end
    cdef Py_ssize_t deferred_count
    cdef Py_ssize_t deferred_capacity
    cdef int add(self, Timer timer) except -1
    cdef int add_deferred(self, Timer timer, double delay) except -1
    cdef int arm_deferred(self) except -1
    cdef int put(self, Timer timer) except -1
    cdef int remove(self, Timer timer) except -1
    cdef Timer pop(self)
    cdef void sift_up(self, Py_ssize_t i, Entry entry) noexcept
    cdef void sift_down(self, Py_ssize_t i, Entry entry) noexcept
    cdef int clear(self) except -1

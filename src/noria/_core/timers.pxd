from libc.stdint cimport int64_t, uint64_t

from noria._core.contract cimport Event, Target

cdef class Handle(Target):
    cdef object callback
    cdef object args            # a tuple; with `single`, the only argument
    cdef object context         # a contextvars.Context; None: the loop's; or EMPTY_CONTEXT
    cdef unsigned char dropped
    cdef unsigned char single
    # The callback runs, out of the queue: `callback`, `args` and `context` stay until it has ended.
    cdef unsigned char running
    cdef object __weakref__
    cdef int run_again(self) except -1
    cdef object args_tuple(self)
    cdef int drop(self) except -1

cdef class ThreadSafeHandle(Handle):
    cdef unsigned long runner   # the thread that runs the callback, while `runs` is set
    cdef bint runs
    cdef list waiters           # a locked lock for each waiting thread
    cdef int finish(self) except -1
    cdef int wait_until_done(self) except -1

cdef class Timer(Handle):
    cdef double seconds         # when it is due; of a deferred timer, its delay
    cdef int64_t when_ns        # of a deferred timer, the coarse time at which it was set
    cdef uint64_t order
    cdef Py_ssize_t position    # in the run or the heap; -1: none; -2 and below: in `deferred`
    cdef bint in_run
    cdef void *timers           # borrowed; valid while the timer has a position

cdef object current_context()
cdef Timer new_timer()
cdef int64_t nanoseconds(double seconds) noexcept

cdef struct Entry:
    int64_t when
    uint64_t order              # equal deadlines run in the order in which they were set
    void *timer                 # owns a reference; NULL in the run: removed

cdef class Timers:
    cdef readonly Py_ssize_t count      # timers in the run and in the heap
    cdef Entry *run                     # sorted, from run_first to run_end
    cdef Py_ssize_t run_first
    cdef Py_ssize_t run_end
    cdef Py_ssize_t run_capacity
    cdef Py_ssize_t run_holes           # entries between the first and the last without a timer
    cdef Entry *heap
    cdef Py_ssize_t heap_count
    cdef Py_ssize_t heap_capacity
    cdef uint64_t order
    cdef void **deferred        # timers whose delay begins at the end of this turn
    cdef Py_ssize_t deferred_count
    cdef Py_ssize_t deferred_capacity
    cdef int add(self, Timer timer) except -1
    cdef int add_deferred(self, Timer timer, double delay) except -1
    cdef int arm_deferred(self) except -1
    cdef int put(self, Timer timer) except -1
    cdef int make_room_in_run(self) except -1
    cdef void compact_run(self) noexcept
    cdef int remove(self, Timer timer) except -1
    cdef void remove_from_run(self, Py_ssize_t i) noexcept
    cdef void remove_from_heap(self, Py_ssize_t i) noexcept
    cdef int64_t next_when(self) noexcept
    cdef Timer pop_due(self, int64_t now)
    cdef void sift_up(self, Py_ssize_t i, Entry entry) noexcept
    cdef void sift_down(self, Py_ssize_t i, Entry entry) noexcept
    cdef int clear(self) except -1

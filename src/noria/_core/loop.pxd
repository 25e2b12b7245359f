from libc.stdint cimport int64_t, uint64_t

from noria._core.contract cimport Dispatcher, Event, Model, Queue
from noria._core.timers cimport Timer, Timers

cdef enum:
    PATIENCE = 64       # turns for which the kernel is not asked, at most

cdef class Loop(Dispatcher):
    cdef readonly Model model
    cdef Queue queue
    cdef Timers timers
    cdef public object on_error     # on_error(exception): what a callback raised
    cdef readonly bint running
    cdef readonly bint closed
    cdef bint stopping
    cdef bint asleep                # in the model's wait, or about to
    cdef bint dispatching
    cdef size_t left               # events of this dispatch still to take
    cdef Event event               # the one being handled
    cdef unsigned long thread
    cdef object fatal               # raised by a handler on a model's thread, for run() to raise
    cdef int64_t busy_since
    cdef int64_t began_ns
    cdef int64_t busy_total
    cdef int64_t last_asked
    cdef int skipped
    cdef bint abandoned             # a fork's child: its parent turns it
    cdef uint64_t turns
    cdef Timer set_timer(self, double when, object callback, tuple args, object context)
    cdef int turn(self) except -1
    cdef int collect(self) except -1
    cdef int dispatch(self, size_t limit) except -1
    cdef int let_go(self) noexcept
    cdef int handle_events(self) except -1
    cdef int due(self) except -1
    cdef int report(self, object error) except -1
    cdef int64_t now(self) except? -1

from libc.stdint cimport int64_t, uint64_t

from noria._core.contract cimport Dispatcher, Event, Model, Queue
from noria._core.timers cimport Timer, Timers

cdef enum:
    MAX_TURNS_WITHOUT_POLL = 64
    KEEN_POLLS = 64     # polls in successive turns that may find nothing before some are skipped

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
    cdef int skipped                # turns since the last poll
    cdef int patience               # turns to skip before the next poll
    cdef int empty_polls            # polls in a row that found nothing
    cdef uint64_t seen_calls        # system calls for I/O that the model had made at the last turn
    cdef bint abandoned             # a fork's child: its parent turns it
    cdef uint64_t turns
    cdef Timer set_timer(self, double when, object callback, tuple args, object context)
    cdef int turn(self) except -1
    cdef int collect(self) except -1
    cdef int poll(self) except -1
    cdef int poll_often(self) noexcept
    cdef int dispatch(self, size_t limit) except -1
    cdef int let_go(self) noexcept
    cdef int handle_events(self) except -1
    cdef int due(self) except -1
    cdef int report(self, object error) except -1
    cdef int64_t now(self) except? -1

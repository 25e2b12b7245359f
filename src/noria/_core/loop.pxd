from libc.stdint cimport int64_t, uint64_t

from noria._core.contract cimport Dispatcher, Event, Model, Queue
from noria._core.timers cimport Timer, Timers

cdef enum:
    MAX_TURNS_WITHOUT_POLL = 64
    EMPTY_POLLS_BEFORE_SKIPPING = 64    # in successive turns

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
    cdef size_t events_left        # events of this dispatch still to take
    cdef Event event               # the one being handled
    cdef unsigned long thread_id
    cdef object fatal               # raised by a handler on a model's thread, for run() to raise
    cdef int64_t waiting_ns_at_start
    cdef int64_t run_started_ns
    cdef int64_t busy_ns
    cdef int64_t last_poll_tick
    cdef int skipped_turns          # turns since the last poll
    cdef int turns_to_skip          # turns to skip before the next poll
    cdef int empty_polls            # polls in a row that found nothing
    cdef uint64_t last_io_calls     # system calls for I/O that the model had made at the last turn
    cdef bint abandoned             # a fork's child: its parent turns it
    cdef uint64_t turns
    cdef Timer set_timer(self, double when, object callback, tuple args, object context)
    cdef int turn(self) except -1
    cdef int collect(self) except -1
    cdef int poll(self) except -1
    cdef int poll_every_turn(self) noexcept
    cdef int dispatch(self, size_t limit) except -1
    cdef int drop_event(self) noexcept
    cdef int handle_events(self) except -1
    cdef int queue_due_timers(self) except -1
    cdef int report(self, object error) except -1
    cdef int64_t now(self) except? -1

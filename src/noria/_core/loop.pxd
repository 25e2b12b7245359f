from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint64_t

from noria._core.contract cimport Dispatcher, Event, Model, Queue
from noria._core.timers cimport Timer, Timers

cdef enum:
    MAX_TURNS_WITHOUT_POLL = 64
    COUNTERS = 14                       # numbers in struct Counters
    EMPTY_POLLS_BEFORE_SKIPPING = 64    # in successive turns, without other I/O

cdef class Loop(Dispatcher):
    cdef readonly Model model
    cdef Queue queue
    cdef Timers timers
    cdef public object on_error     # on_error(exception), for exceptions of handlers
    cdef readonly bint running
    cdef readonly bint closed
    cdef bint stopping
    cdef bint asleep                # in the model's wait, or about to call it
    cdef bint dispatching
    cdef size_t events_left        # events that this dispatch has still to take
    cdef Event event               # the event that is being handled
    cdef unsigned long thread_id
    cdef PyObject *base_frame       # Python's innermost frame where the run began; borrowed
    cdef int64_t native_id          # the kernel's number of that thread
    cdef object fatal               # raised by a handler in a thread of the model; run raises it
    cdef int64_t waiting_ns_at_start
    cdef int64_t run_started_ns
    cdef int64_t busy_ns
    cdef int64_t last_poll_tick
    cdef int skipped_turns          # turns since the last poll
    cdef int turns_to_skip          # turns to skip before the next poll
    cdef int empty_polls            # successive polls that found nothing
    cdef uint64_t last_io_calls     # I/O calls that the model had made at the last turn
    cdef bint abandoned             # this process is the child of a fork
    cdef uint64_t turns
    cdef object attached            # the Recorder, kept while the model points to its ring
    cdef uint64_t counters_recorded[COUNTERS]
    cdef Timer set_timer(self, double when, object callback, object args, bint single,
                         object context)
    cdef int turn(self) except -1
    cdef int collect(self) except -1
    cdef int poll(self) except -1
    cdef int poll_every_turn(self) noexcept
    cdef int dispatch(self, size_t limit) except -1
    cdef int drop_event(self) noexcept
    cdef int handle_events(self) except -1
    cdef int queue_due_timers(self) except -1
    cdef int handle_recorded(self) except -1
    cdef int record_turn(self) noexcept
    cdef int record_counters(self, bint all) noexcept
    cdef int record_wait(self, int64_t timeout) noexcept
    cdef int record_woke(self, size_t before, int64_t timeout) noexcept
    cdef int record_exception(self, object error) noexcept
    cdef int report(self, object error) except -1
    cdef int64_t now(self) except? -1

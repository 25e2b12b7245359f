"""The wheel. One turn: wait on the model, put what is due in the queue, handle what is in it.

Every turn polls, also while the queue has work: what the kernel had at the start of a turn is
delivered in that turn, as on asyncio's own loop. Where a poll is a system call, and after 64 that
found nothing and no other I/O, more and more turns go without one: a chain of callbacks is not
slowed down by it. One tick of the coarse clock or `MAX_TURNS_WITHOUT_POLL` turns later there is a
poll in any case, and what it finds, any I/O of the loop's own, or a turn that had to wait, makes
every turn poll again.
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_XDECREF
from libc.stdint cimport int64_t, uint64_t

from noria._core.contract cimport CALL, Counters, Model, Operation, Target
from noria._core.sys cimport monotonic_ns
from noria._core.timers cimport Handle, Timer, Timers, nanoseconds, new_timer

import logging

log = logging.getLogger("noria")

cdef enum:
    FOREVER = -1


cdef class Loop(Dispatcher):
    """Takes events out of one model's queue and calls their handlers, until told to stop."""

    def __init__(self, Model model):
        self.model = model
        self.queue = model.queue
        self.timers = Timers()
        model.dispatcher = self

    # What may be asked of it.

    @cython.binding(False)
    def time(self):
        """Now, in seconds of the clock that the timers run by."""
        return self.model.now() / 1e9

    def call_soon(self, callback, *args):
        """Puts a call at the end of the queue; returns a handle with `cancel`."""
        cdef Handle handle = Handle.__new__(Handle)
        if self.closed:
            self.check_closed()
        handle.callback = callback
        handle.args = args
        self.queue.put(handle, CALL, 0, NULL)
        if self.model.dispatcher is self and self.running and \
                PyThread_get_thread_ident() != self.thread_id:
            self.model.wake()
        return handle

    def call_soon_threadsafe(self, callback, *args):
        """The same from any thread: a loop that sleeps is woken."""
        return self.call_soon(callback, *args)

    def call_later(self, delay, callback, *args):
        """Calls after `delay` seconds; returns a timer with `cancel` and `when`."""
        cdef double seconds = delay
        return self.call_at(self.time() + seconds, callback, *args)

    def call_at(self, when, callback, *args):
        """Calls at `when`, in seconds of `time()`."""
        if self.closed:
            self.check_closed()
        timer = self.set_timer(when, callback, args, None)
        if self.running and PyThread_get_thread_ident() != self.thread_id:
            self.model.wake()
        return timer

    cdef Timer set_timer(self, double when, object callback, tuple args, object context):
        cdef Timer timer = new_timer()
        timer.callback = callback
        timer.args = args
        timer.context = context
        timer.moment = when
        timer.when_ns = nanoseconds(when)
        self.timers.add(timer)
        return timer

    def submit(self, Operation operation):
        """Starts an operation; its callback comes from the queue."""
        if self.closed:
            self.check_closed()
        self.model.submit(operation)

    def cancel(self, Operation operation):
        """Its callback will not be called."""
        self.model.cancel(operation)

    def prepare(self):
        """Makes the model ready for this thread; the descriptor that wakes it, or -1."""
        if self.closed:
            self.check_closed()
        self.model.start_run()
        return self.model.wake_fd()

    def run(self):
        """Turns until `stop`, or until a handler raises KeyboardInterrupt or SystemExit. Stopped
        before, it is one turn, as asyncio's run_forever: another thread may have been quicker."""
        self.start_run()
        try:
            self.turn()
            while not self.stopping:
                self.turn()
        finally:
            self.end_run()

    def run_once(self, timeout=None):
        """One turn, waiting at most `timeout` seconds (None: as long as it takes)."""
        cdef Timer limit = None
        if timeout is not None and timeout > 0:
            limit = self.call_later(timeout, do_nothing)
        self.start_run()
        try:
            if timeout is not None and timeout <= 0:
                self.call_soon(do_nothing)
                self.poll_every_turn()
            self.turn()
        finally:
            if limit is not None:
                limit.cancel()
            self.finish_run()

    def stop(self):
        """Ends `run` after this turn, or the next one after its first; from any thread."""
        self.stopping = True
        if self.running and PyThread_get_thread_ident() != self.thread_id:
            self.model.wake()

    def close(self):
        """Ends the model and drops what was not handled; refuses while running."""
        if self.running:
            raise RuntimeError("cannot close a loop that is running: stop it first")
        if not self.closed:
            self.closed = True
            self.model.close()
            self.timers.clear()

    def pending(self):
        """(events in the queue, timers set)."""
        return (self.queue.count, self.timers.count + self.timers.deferred_count)

    def usage(self):
        """Seconds spent in handlers and seconds asleep since the first run, and turns made."""
        cdef int64_t busy = self.busy_ns
        if self.running:
            busy += monotonic_ns() - self.run_started_ns - self.waited_in_run()
        return {"busy": busy / 1e9, "waiting": self.model.counters.waiting_ns / 1e9,
                "turns": self.turns}

    # How it turns.

    cdef int64_t now(self) except? -1:
        return self.model.now()

    def waited_in_run(self):
        return self.model.counters.waiting_ns - self.waiting_ns_at_start

    def check_closed(self):
        if self.closed:
            raise RuntimeError("the loop is closed")

    def start_run(self):
        if self.closed:
            self.check_closed()
        if self.abandoned:
            self.model.raise_inherited()
        if self.running:
            raise RuntimeError("the loop is running already")
        self.thread_id = PyThread_get_thread_ident()
        self.model.start_run()
        self.running = True
        self.run_started_ns = monotonic_ns()
        self.waiting_ns_at_start = self.model.counters.waiting_ns

    def end_run(self):
        """The model lets go of the kernel's side of what was closed, and of this thread."""
        try:
            # A peer that waits for the end of a connection must not have to wait for the next run.
            self.model.flush_closes()
        finally:
            try:
                self.model.end_run()
            finally:
                self.finish_run()

    def finish_run(self):
        self.running = self.stopping = False
        self.busy_ns += monotonic_ns() - self.run_started_ns - self.waited_in_run()
        if self.fatal is not None:
            error, self.fatal = self.fatal, None
            raise error

    cdef int turn(self) except -1:
        self.collect()
        self.dispatch(self.queue.count)
        if self.fatal is not None:
            self.stopping = True
        return 0

    cdef int collect(self) except -1:
        """The first part of a turn: what has happened and what is due goes into the queue."""
        cdef int64_t timeout
        if self.abandoned:
            self.model.raise_inherited()
        self.turns += 1
        if self.timers.deferred_count:
            self.timers.arm_deferred()
        if self.queue.count == 0 or self.dispatching:   # by a thread of the model: its to finish
            timeout = FOREVER
            if self.timers.count:
                timeout = self.timers.heap[0].when - self.now()
                if timeout < 0:
                    timeout = 0
            if self.stopping:
                timeout = 0
            self.poll_every_turn()
            self.asleep = timeout != 0
            try:
                self.model.wait(timeout)
            finally:
                self.asleep = False
        elif self.model.polls_memory:
            self.model.wait(0)
        else:
            self.poll()
        if self.timers.count:
            self.queue_due_timers()
        return 0

    cdef int poll_every_turn(self) noexcept:
        """Every turn polls from now on, until many of them have found nothing."""
        self.skipped_turns = self.turns_to_skip = self.empty_polls = 0
        return 0

    cdef int poll(self) except -1:
        """Poll for events without waiting, or skip it if many polls before have found nothing."""
        cdef Counters *made = &self.model.counters
        cdef uint64_t calls = made.sends + made.receives + made.accepts + made.controls
        cdef size_t before
        cdef int64_t now
        if calls != self.last_io_calls:
            self.last_io_calls = calls
            self.poll_every_turn()
        elif self.skipped_turns < self.turns_to_skip:
            self.skipped_turns += 1
            if self.skipped_turns & 3:
                return 0                    # looking at the clock costs as much as a callback
            now = self.model.tick()
            if now == self.last_poll_tick:
                return 0
            self.last_poll_tick = now
        self.skipped_turns = 0
        before = self.queue.count
        self.model.wait(0)
        if self.queue.count != before:
            self.poll_every_turn()
        elif self.empty_polls < EMPTY_POLLS_BEFORE_SKIPPING:
            self.empty_polls += 1
        elif self.turns_to_skip < MAX_TURNS_WITHOUT_POLL - 1:
            self.turns_to_skip = 2 * self.turns_to_skip + 1
        return 0

    cdef int queue_due_timers(self) except -1:
        cdef int64_t now = self.now()
        while self.timers.count and self.timers.heap[0].when <= now:
            self.queue.put(self.timers.pop(), CALL, 0, NULL)
        return 0

    cdef int dispatch(self, size_t limit) except -1:
        """Handles at most `limit` events: those that come meanwhile have their turn next."""
        cdef Target target
        if self.dispatching:
            return 0
        self.dispatching = True
        self.events_left = limit
        try:
            while self.events_left:
                try:
                    self.handle_events()
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    target = <Target>self.event.target
                    if not target.handle_error(error):
                        self.report(error)
        finally:
            self.drop_event()
            self.dispatching = False
        return 0

    cdef int drop_event(self) noexcept:
        """Drops the reference of the event whose handler raised."""
        cdef PyObject *target = self.event.target
        self.event.target = NULL
        Py_XDECREF(target)
        return 0

    cdef int handle_events(self) except -1:
        # No try in here: what a handler raises ends this loop, and dispatch begins it anew.
        self.drop_event()
        while self.events_left and self.queue.take(&self.event):
            self.events_left -= 1
            (<Target>self.event.target).handle(&self.event)
            Py_DECREF(<object>self.event.target)
        self.event.target = NULL
        self.events_left = 0
        return 0

    cdef int drain(self) except -1:
        """Called by a model's own thread: handles what there is, unless another thread is at it.

        Handlers so never run two at a time, whichever thread found the event.
        """
        cdef int64_t before
        cdef int turns = 0
        if self.dispatching or self.closed or self.abandoned:
            return 0
        before = monotonic_ns()
        try:
            # Not for ever: this thread has a descriptor of its own to go back to.
            while (self.queue.count and turns < MAX_TURNS_WITHOUT_POLL
                   and not self.stopping and not self.closed):
                turns += 1
                self.dispatch(self.queue.count)
        except BaseException as error:
            self.fatal = error
            self.stop()
        self.busy_ns += monotonic_ns() - before
        if self.stopping or self.queue.count:
            self.model.wake()
        return 0

    cdef bint abandon(self) noexcept:
        self.abandoned = True
        self.events_left = 0  # of the turn in which a handler forked
        return self.running

    cdef int report(self, object error) except -1:
        cdef Target target = <Target>self.event.target
        target.clear()
        if self.on_error is not None:
            self.on_error(error)
        else:
            log.error("a handler raised", exc_info=error)
        return 0


def do_nothing():
    """A callback that only ends a wait."""

"""The event loop. One turn: wait on the model, queue the due timers, handle the queued events.

Each turn polls the kernel, even if the queue has events: what has arrived at the start of a turn is
delivered in that turn, as asyncio's loop does. If a poll is a system call, and 64 successive polls
have found nothing without any other I/O, polls are skipped for more and more turns, so that they do
not slow down a chain of callbacks. A poll takes place at the latest after a tick of the coarse
clock or after `MAX_TURNS_WITHOUT_POLL` turns. If it finds an event, if the loop does I/O, or if a
turn has to wait, each turn polls again.
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_XDECREF
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from noria._core.contract cimport CALL, CONNECT, Counters, Model, Operation, Target
from noria._core.recorder.events cimport FIRST_OF_TURN, RecordKind
from noria._core.recorder.record cimport (
    Ring, detach_ring, handler_of, identify_type, publish, read_turn, record, record_at,
    record_transfer,
)
from noria._core.sys cimport EAGAIN, EIO, monotonic_ns, thread_native_id
from noria._core.timers cimport Handle, Timer, Timers, nanoseconds, new_timer

import logging
import sys

from noria.errors import NoriaError, Unsupported

cdef extern from *:
    "#define noria_frame() ((PyObject *)PyEval_GetFrame())"
    PyObject *current_frame "noria_frame"() noexcept

log = logging.getLogger("noria")

cdef enum:
    FOREVER = -1


# Called with a loop at each begin of a run, in the loop's thread.
cdef object loop_hook = None


def set_loop_hook(hook):
    """Have `hook(loop)` called when a loop begins to run, in its thread; None: no longer.

    The run fails with the exception that the hook raises.
    """
    global loop_hook
    loop_hook = hook


cdef class Loop(Dispatcher):
    """Takes events out of the queue of a model and calls their handlers, until `stop`."""

    def __init__(self, Model model):
        self.model = model
        self.queue = model.queue
        self.timers = Timers()
        model.dispatcher = self

    # For users.

    @cython.binding(False)
    def time(self):
        """The time in seconds, by the clock of the timers."""
        return self.model.now() / 1e9

    def call_soon(self, callback, *args):
        """Put a call at the end of the queue; return a handle with `cancel`."""
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
        """Like `call_soon`, from any thread; a waiting loop is woken."""
        return self.call_soon(callback, *args)

    def call_later(self, delay, callback, *args):
        """Call after `delay` seconds; return a timer with `cancel` and `when`."""
        cdef double seconds = delay
        return self.call_at(self.time() + seconds, callback, *args)

    def call_at(self, when, callback, *args):
        """Call at `when`, in seconds of `time()`; return a timer."""
        if self.closed:
            self.check_closed()
        timer = self.set_timer(when, callback, args, False, None)
        if self.running and PyThread_get_thread_ident() != self.thread_id:
            self.model.wake()
        return timer

    cdef Timer set_timer(self, double when, object callback, object args, bint single,
                         object context):
        cdef Timer timer = new_timer()
        timer.callback = callback
        timer.args = args
        timer.single = single
        timer.context = context
        timer.seconds = when
        timer.when_ns = nanoseconds(when)
        self.timers.add(timer)
        return timer

    def submit(self, Operation operation):
        """Start an operation; its callback is called from the queue."""
        if self.closed:
            self.check_closed()
        if self.model.recorder != NULL and operation.kind != CONNECT:
            record(self.model.recorder, RecordKind.FILE_BEGIN, <uint64_t><PyObject *>operation,
                   operation.kind)
        self.model.submit(operation)

    def cancel(self, Operation operation):
        """Drop the callback of an operation."""
        self.model.cancel(operation)

    def prepare(self):
        """Prepare the model for a run in this thread; return its wake-up descriptor, or -1."""
        if self.closed:
            self.check_closed()
        self.model.start_run()
        return self.model.wake_fd()

    def run(self):
        """Run turns until `stop`, or until a handler raises KeyboardInterrupt or SystemExit.

        If `stop` was called before, run one turn, as asyncio's run_forever does.
        """
        self.start_run()
        try:
            self.turn()
            while not self.stopping:
                self.turn()
        finally:
            self.end_run()

    def run_once(self, timeout=None):
        """Run one turn, which waits for at most `timeout` seconds (None: no limit)."""
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
        """Make `run` return after this turn; the next `run`, if the loop is not running.

        May be called from any thread.
        """
        self.stopping = True
        if self.running and PyThread_get_thread_ident() != self.thread_id:
            self.model.wake()

    def close(self):
        """Close the model and discard the queued events. Raises RuntimeError while running."""
        if self.running:
            raise RuntimeError("cannot close a loop that is running: stop it first")
        if not self.closed:
            self.detach_recorder()
            self.closed = True
            self.model.close()
            self.timers.clear()

    def pending(self):
        """(number of queued events, number of timers)."""
        return (self.queue.count, self.timers.count + self.timers.deferred_count)

    def usage(self):
        """Seconds in handlers (busy), seconds of waiting, and turns, since the first run."""
        cdef int64_t busy = self.busy_ns
        if self.running:
            busy += monotonic_ns() - self.run_started_ns - self.waited_in_run()
        return {"busy": busy / 1e9, "waiting": self.model.counters.waiting_ns / 1e9,
                "turns": self.turns}

    # Turns.

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
        if loop_hook is not None:
            loop_hook(self)
        self.thread_id = PyThread_get_thread_ident()
        self.model.start_run()
        self.running = True
        self.run_started_ns = monotonic_ns()
        self.waiting_ns_at_start = self.model.counters.waiting_ns
        self.base_frame = current_frame()
        self.native_id = thread_native_id()
        if self.model.recorder != NULL:
            self.record_run_begin()

    def end_run(self):
        """End a run: the kernel closes what was closed, and the model leaves this thread."""
        try:
            # A peer must not wait until the next run for the end of a connection.
            self.model.flush_closes()
        finally:
            try:
                self.model.end_run()
            finally:
                self.finish_run()

    def finish_run(self):
        if self.model.recorder != NULL:
            self.record_run_end()
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
        """The first part of a turn: queue the events of the model and the due timers."""
        cdef int64_t timeout
        cdef size_t before
        if self.abandoned:
            self.model.raise_inherited()
        self.turns += 1
        if self.timers.deferred_count:
            self.timers.arm_deferred()
        # If a thread of the model dispatches, it also handles what is in the queue.
        if self.queue.count == 0 or self.dispatching:
            timeout = FOREVER
            if self.timers.count:
                timeout = self.timers.next_when() - self.now()
                if timeout < 0:
                    timeout = 0
            if self.stopping:
                timeout = 0
            self.poll_every_turn()
            self.asleep = timeout != 0
            if self.model.recorder != NULL:
                self.record_wait(timeout)
            before = self.queue.head + self.queue.count
            try:
                self.model.wait(timeout)
            finally:
                self.asleep = False
                if self.model.recorder != NULL:
                    self.record_woke(before, timeout)
        elif self.model.polls_memory:
            before = self.queue.count
            self.model.wait(0)
            if self.model.recorder != NULL and self.queue.count != before:
                record(self.model.recorder, RecordKind.POLL, self.queue.count - before, 0)
        else:
            self.poll()
        if self.timers.count:
            self.queue_due_timers()
        return 0

    cdef int poll_every_turn(self) noexcept:
        """Poll in each turn, until many polls have found nothing."""
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
                return 0                    # reading the clock costs as much as a callback
            now = self.model.tick()
            if now == self.last_poll_tick:
                return 0
            self.last_poll_tick = now
        self.skipped_turns = 0
        before = self.queue.count
        self.model.wait(0)
        if self.model.recorder != NULL:
            record(self.model.recorder, RecordKind.POLL, self.queue.count - before, 0)
        if self.queue.count != before:
            self.poll_every_turn()
        elif self.empty_polls < EMPTY_POLLS_BEFORE_SKIPPING:
            self.empty_polls += 1
        elif self.turns_to_skip < MAX_TURNS_WITHOUT_POLL - 1:
            self.turns_to_skip = 2 * self.turns_to_skip + 1
        return 0

    cdef int queue_due_timers(self) except -1:
        cdef int64_t now = self.now()
        cdef Timer timer = self.timers.pop_due(now)
        while timer is not None:
            self.queue.put(timer, CALL, 0, NULL)
            if self.model.recorder != NULL:
                record(self.model.recorder, RecordKind.TIMER, timer.when_ns, now)
            timer = self.timers.pop_due(now)
        return 0

    cdef int dispatch(self, size_t limit) except -1:
        """Handle at most `limit` events; those queued meanwhile are for the next turn."""
        cdef Target target
        if self.dispatching:
            return 0
        self.dispatching = True
        self.events_left = limit
        if self.model.recorder != NULL:
            self.record_turn()
        try:
            while self.events_left:
                try:
                    self.handle_events()
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    target = <Target>self.event.target
                    if self.model.recorder != NULL:
                        self.record_exception(error)
                    if not target.handle_error(error):
                        self.report(error)
        finally:
            self.drop_event()
            self.dispatching = False
        return 0

    cdef int drop_event(self) noexcept:
        """Drop the reference of the event whose handler raised an exception."""
        cdef PyObject *target = self.event.target
        self.event.target = NULL
        Py_XDECREF(target)
        return 0

    cdef int handle_events(self) except -1:
        # Without a try: an exception of a handler ends this loop, and dispatch restarts it.
        if self.model.recorder != NULL:
            return self.handle_recorded()
        self.drop_event()
        while self.events_left and self.queue.take(&self.event):
            self.events_left -= 1
            (<Target>self.event.target).handle(&self.event)
            Py_DECREF(<object>self.event.target)
        self.event.target = NULL
        self.events_left = 0
        return 0

    cdef int handle_recorded(self) except -1:
        """As handle_events, with a record of each; a handler may detach the recorder."""
        cdef Ring *ring
        self.drop_event()
        while self.events_left and self.queue.take(&self.event):
            self.events_left -= 1
            ring = self.model.recorder
            if ring != NULL:
                (<Target>self.event.target).record_begin(&self.event, ring,
                                                         self.queue.head + self.queue.count)
            (<Target>self.event.target).handle(&self.event)
            Py_DECREF(<object>self.event.target)
        self.event.target = NULL
        self.events_left = 0
        return 0

    cdef int drain(self) except -1:
        """Handle the queued events in a thread of the model, unless another thread does so.

        So only one handler runs at a time.
        """
        cdef int64_t before
        cdef int turns = 0
        if self.dispatching or self.closed or self.abandoned:
            return 0
        before = monotonic_ns()
        try:
            # The number of turns is limited, as this thread has a descriptor of its own to serve.
            while (self.queue.count and turns < MAX_TURNS_WITHOUT_POLL
                   and not self.stopping and not self.closed):
                turns += 1
                if self.model.recorder != NULL:
                    # The thread of the loop sleeps meanwhile.
                    self.record_woke(self.queue.head, -1)
                self.dispatch(self.queue.count)
        except BaseException as error:
            self.fatal = error
            self.stop()
        self.busy_ns += monotonic_ns() - before
        if self.model.recorder != NULL:
            self.record_wait(-1)
        if self.stopping or self.queue.count:
            self.model.wake()
        return 0

    cdef bint abandon(self) noexcept:
        self.abandoned = True
        self.events_left = 0  # of the turn in which a handler forked
        return self.running

    # Recording.

    def attach_recorder(self, recorder):
        """Record what this loop does from now on, also while it runs. From any thread.

        Raises NoriaError if the loop has a recorder, or the recorder a loop or is closed, and
        Unsupported without the GIL.
        """
        if hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled():
            raise Unsupported("recording needs the GIL, which orders the records of several "
                              "threads: start Python with -X gil=1")
        if self.closed:
            self.check_closed()
        if self.abandoned:
            self.model.raise_inherited()
        if self.model.recorder != NULL:
            raise NoriaError("the loop has a recorder already: detach it first")
        recorder.attach_to(<size_t>&self.model.recorder, self.model.name)
        self.attached = recorder
        self.model.recorder.functions.record_clock(self.model.recorder)
        self.record_counters(True)
        if self.running:
            self.record_run_begin()
            if self.asleep:
                self.record_wait(-1)
            elif self.dispatching:
                self.record_turn()

    def detach_recorder(self):
        """End the recording; without one, do nothing. From any thread."""
        # Kept until the end: a record of this method may be the last use.
        _recorder = self.attached
        self.attached = None
        if self.model is None or self.model.recorder == NULL:
            return
        self.record_counters(True)
        self.model.recorder.functions.record_clock(self.model.recorder)
        if self.running:
            self.record_run_end()
        detach_ring(&self.model.recorder)

    @property
    def recorder(self):
        """The attached Recorder, or None."""
        return None if self.model is None or self.model.recorder == NULL else self.attached

    def record_run_begin(self):
        cdef Ring *ring = self.model.recorder
        ring.header.thread_native_id = self.native_id
        ring.header.thread_ident = self.thread_id
        record(ring, RecordKind.RUN_BEGIN, self.native_id, self.queue.count != 0)

    def record_run_end(self):
        cdef Ring *ring = self.model.recorder
        record(ring, RecordKind.RUN_END, 0, 0)
        ring.header.turn_started = ring.header.thread_native_id = 0

    cdef int record_turn(self) noexcept:
        """Record that the handlers of a turn begin."""
        cdef Ring *ring = self.model.recorder
        cdef uint64_t timers = self.timers.count + self.timers.deferred_count
        cdef bint single = self.events_left == 1 and timers == ring.timers
        cdef uint64_t now = read_turn(ring, single)
        if now >= ring.next_clock:
            ring.functions.record_clock(ring)
            self.record_counters(False)
            now = read_turn(ring, single)
        ring.header.turn_queue = self.events_left
        ring.header.turns = self.turns
        publish(&ring.header.turn_started, now)
        if single:
            # The handler's record stands for the turn, too.
            ring.first = FIRST_OF_TURN
        else:
            ring.first = 0
            ring.timers = timers
            record_at(ring, now, RecordKind.TURN, self.events_left | timers << 32, self.turns)
        return 0

    cdef int record_counters(self, bint all) noexcept:
        """Record the counters of the model: all, or those that have changed."""
        cdef Counters counters
        cdef uint64_t values[COUNTERS]
        cdef int i
        self.model.copy_counters(&counters)
        memcpy(values, &counters, sizeof(values))
        for i in range(COUNTERS):
            if all or values[i] != self.counters_recorded[i]:
                record(self.model.recorder, RecordKind.COUNTER, i, values[i])
        memcpy(self.counters_recorded, values, sizeof(values))
        return 0

    cdef int record_wait(self, int64_t timeout) noexcept:
        """Record that the loop is about to sleep or, with timeout 0, to poll."""
        cdef Ring *ring = self.model.recorder
        if timeout:
            ring.header.turn_started = 0
            record(ring, RecordKind.WAIT, <uint64_t>timeout, 0)
        return 0

    cdef int record_woke(self, size_t before, int64_t timeout) noexcept:
        """Record the end of a wait; `before` is the number of events ever queued at its begin."""
        record(self.model.recorder, RecordKind.WOKE if timeout else RecordKind.POLL,
               self.queue.head + self.queue.count - before, 0)
        return 0

    cdef int record_exception(self, object error) noexcept:
        """Record the exception of the handler that was recorded last."""
        cdef Ring *ring = self.model.recorder
        record(ring, RecordKind.EXCEPTION, identify_type(ring, <PyObject *>error),
               handler_of(ring))
        return 0

    def record_file_begin(self, future):
        """Record that an operation on a file begins in a thread; the future has its result."""
        if self.model.recorder != NULL:
            record(self.model.recorder, RecordKind.FILE_BEGIN, <uint64_t><PyObject *>future, 0)
            future.add_done_callback(self.record_file_end)

    def record_file_end(self, future):
        cdef int64_t result = 0
        if self.model.recorder == NULL:
            return
        if not future.cancelled():
            error = future.exception()
            if error is not None:
                result = -(getattr(error, "errno", None) or EIO)
            elif isinstance(future.result(), int):
                result = future.result()
            elif isinstance(future.result(), bytes):
                result = len(future.result())
        record(self.model.recorder, RecordKind.FILE_END, <uint64_t><PyObject *>future,
               <uint64_t>result)

    # System calls that Python code makes for this loop; `result` is their result, or -errno.

    def count_connect(self, int fd, int result):
        """Record that an outgoing connection is made, or has failed."""
        if self.model.recorder != NULL:
            record_transfer(self.model.recorder, RecordKind.CONNECT, fd, result)

    def count_accept(self, int fd, int result):
        """Count and record an accept; `result` is the new descriptor."""
        self.model.counters.accepts += 1
        if result == -EAGAIN:
            self.model.counters.empty_accepts += 1
        elif result >= 0:
            self.model.counters.connections += 1
        if self.model.recorder != NULL:
            record_transfer(self.model.recorder, RecordKind.ACCEPT, fd, result)

    def count_receive(self, int fd, Py_ssize_t result):
        """Count and record a receive."""
        self.model.counters.receives += 1
        if result == -EAGAIN:
            self.model.counters.empty_receives += 1
        elif result > 0:
            self.model.counters.bytes_in += result
        if self.model.recorder != NULL:
            record_transfer(self.model.recorder, RecordKind.RECEIVE, fd, result)

    def count_send(self, int fd, Py_ssize_t result):
        """Count and record a send, or a sendfile."""
        self.model.counters.sends += 1
        self.model.count_send(fd, result)

    cdef int report(self, object error) except -1:
        """Report an exception that no target has handled."""
        cdef Target target = <Target>self.event.target
        target.clear()
        if self.on_error is not None:
            self.on_error(error)
        else:
            log.error("a handler raised", exc_info=error)
        return 0


def do_nothing():
    """A callback that ends a wait, and does nothing else."""

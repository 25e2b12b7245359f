"""asyncio's scheduling: call_soon, timers, tasks, the turns of the loop and its deferred writes.

In debug mode handles are asyncio's own, which record where they were created; otherwise they are
compiled.
"""

cimport cython
from cpython.list cimport PyList_GET_ITEM
from cpython.object cimport PyObject, PyObject_Call
from cpython.ref cimport Py_DECREF
from cpython.version cimport PY_VERSION_HEX
from libc.stdint cimport int64_t, uint64_t

from noria._core.callbacks cimport fill_handle, is_reusable
from noria._core.contract cimport CALL, Queue, Target, queue_put, queue_take
from noria._core.loop cimport Loop
from noria._core.recorder.events cimport RecordKind
from noria._core.recorder.record cimport (
    Ring, begin_repeated_turn, record_call, record_repeated, type_of,
)
from noria._core.stream cimport Stream
from noria._core.sys cimport monotonic_ns
from noria._core.timers cimport (
    Handle, ThreadSafeHandle, Timer, current_context, nanoseconds, new_timer,
)

import asyncio
from asyncio import base_events, events, format_helpers, tasks
from asyncio.log import logger

from noria._core.aio.descriptor import run_asyncio_handle as run_asyncio_handle_


def repr_callback(callback, args):
    """Describe a callback on a Python without asyncio's function for that."""
    return repr(callback)


cdef object Inherited = asyncio.SelectorEventLoop
cdef object Future = asyncio.Future
cdef object Task = tasks.Task
cdef dict task_names = tasks.__dict__
cdef tuple NO_ARGS = ()
cdef object run_asyncio_handle = run_asyncio_handle_
cdef object format_handle = getattr(base_events, "_format_handle", repr)
cdef object format_callback_source = getattr(format_helpers, "_format_callback_source",
                                             repr_callback)
# the default of arguments for which None is a value
cdef object ABSENT = object()

# Whether `cancel` in another thread waits for a running callback of call_soon_threadsafe. Before
# Python 3.14 asyncio's does not wait, and a callback may wait for the thread that cancels it.
cdef bint BLOCKING_CANCEL = PY_VERSION_HEX >= 0x030E0000
cdef object DebugThreadSafeHandle = getattr(events, "_ThreadSafeHandle", asyncio.Handle)

cdef class Scheduler(Loop):
    """The loop's scheduling methods, with asyncio's names and semantics."""

    def __cinit__(self, *args, **kwargs):
        self.corked = [None] * MAX_DEFERRED_WRITES
        self.turn_number = 1

    def __dealloc__(self):
        while self.spare_handle_count:
            self.spare_handle_count -= 1
            Py_DECREF(<object>self.spare_handles[self.spare_handle_count])

    # Callbacks and tasks.

    cdef Handle make_handle(self, object callback, object args, bint single, object context):
        cdef Handle handle
        if context is None:
            context = current_context()
        if self.spare_handle_count:
            self.spare_handle_count -= 1
            handle = <Handle>self.spare_handles[self.spare_handle_count]
            # the reference of the array
            Py_DECREF(handle)
            handle.dropped = False
        else:
            handle = Handle.__new__(Handle)
        fill_handle(<PyObject *>handle, <PyObject *>callback, <PyObject *>args, single,
                    <PyObject *>context)
        return handle

    @cython.binding(False)
    def call_soon(self, callback, *args, context=None):
        """Queue a callback; return its handle. As AbstractEventLoop.call_soon."""
        cdef Handle handle
        if self.closed:
            self.check_closed()
        if self.debugging:
            self._check_thread()
            self._check_callback(callback, "call_soon")
            return self.debug_call(callback, args, context)
        handle = self.make_handle(callback, args, False, context)
        queue_put(self.queue, handle, CALL, 0, NULL)
        return handle

    @cython.binding(False)
    def call_soon_threadsafe(self, callback, *args, context=None):
        """Queue a callback from any thread or signal handler, and wake the loop if it sleeps.

        As AbstractEventLoop.call_soon_threadsafe of the running Python: from 3.14 on, the handle's
        `cancel` and `cancelled` block other threads while the callback runs.
        """
        cdef Handle handle
        if self.closed:
            self.check_closed()
        if self.debugging:
            self._check_callback(callback, "call_soon_threadsafe")
            result = self.debug_threadsafe_call(callback, args, context)
        else:
            if BLOCKING_CANCEL:
                handle = ThreadSafeHandle.__new__(ThreadSafeHandle)
                handle.callback = callback
                handle.args = args
                handle.context = current_context() if context is None else context
            else:
                handle = self.make_handle(callback, args, False, context)
            queue_put(self.queue, handle, CALL, 0, NULL)
            result = handle
        # The GIL orders this: the loop checks the queue before it sets `asleep`.
        if self.asleep:
            self.model.wake()
        return result

    @cython.binding(False)
    def call_later(self, delay, callback, *args, context=None):
        """Call after `delay` seconds; return a timer. As AbstractEventLoop.call_later.

        A delay of a second or more starts at the end of the turn, at most 20 ms later.
        """
        cdef double seconds
        if delay is None:
            raise TypeError("delay must not be None")
        if self.call_at_overridden:
            return self.call_at(self.time() + delay, callback, *args, context=context)
        seconds = delay
        if self.debugging or self.closed:
            return self.debug_timer(self.now() / 1e9 + seconds, callback, args, context)
        return self.start_timer(seconds, callback, args, False, context)

    cdef Timer start_timer(self, double seconds, object callback, object args, bint single,
                           object context):
        cdef Timer timer
        if context is None:
            context = current_context()
        if seconds < 1 or not self.dispatching or self.time_replaced:
            return self.set_timer(self.now() / 1e9 + seconds, callback, args, single, context)
        timer = new_timer()
        fill_handle(<PyObject *>timer, <PyObject *>callback, <PyObject *>args, single,
                    <PyObject *>context)
        self.timers.add_deferred(timer, seconds)
        return timer

    @cython.binding(False)
    def call_at(self, when, callback, *args, context=None):
        """Call at `when`, in seconds of `time()`; return a timer. As AbstractEventLoop.call_at."""
        if when is None:
            raise TypeError("when cannot be None")
        if self.debugging or self.closed:
            return self.debug_timer(when, callback, args, context)
        return self.set_timer(when, callback, args, False,
                              current_context() if context is None else context)

    cdef int64_t now(self) except? -1:
        if self.time_replaced:
            return nanoseconds(self.time())
        return self.model.now()

    def use_clock(self, bint replaced):
        """Run timers by `self.time()`, or by the model's clock again."""
        if self.timers.deferred_count:
            self.timers.arm_deferred()
        self.time_replaced = replaced

    def debug_call(self, callback, args, context):
        # Compiled code has no frames: the handle's traceback ends at the caller.
        handle = asyncio.Handle(callback, args, self, context)
        self._add_callback(handle)
        return handle

    def debug_threadsafe_call(self, callback, args, context):
        handle = DebugThreadSafeHandle(callback, args, self, context)
        if DebugThreadSafeHandle is not asyncio.Handle and handle._source_traceback:
            # the frame of its own __init__
            del handle._source_traceback[-1]
        self._add_callback(handle)
        return handle

    def debug_timer(self, double when, callback, args, context):
        if self.closed:
            self.check_closed()
        self._check_thread()
        self._check_callback(callback, "call_at")
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.set_timer(when, run_asyncio_handle, (handle,), False, None)
        return handle

    def _timer_handle_cancelled(self, handle):
        # In debug mode a cancelled timer stays set, and does nothing when it is due.
        pass

    def _add_callback(self, handle):
        cdef Handle call = Handle.__new__(Handle)
        call.callback = run_asyncio_handle
        call.args = (handle,)
        queue_put(self.queue, call, CALL, 0, NULL)

    def _add_callback_signalsafe(self, handle):
        self._add_callback(handle)
        if self.asleep:
            self.model.wake()

    @cython.binding(False)
    def create_future(self):
        """Create a future of this loop."""
        if self.loop_option is None:
            self.loop_option = {"loop": self}
        return PyObject_Call(Future, NO_ARGS, self.loop_option)

    @cython.binding(False)
    def create_task(self, coro, *, name=ABSENT, context=ABSENT, **kwargs):
        """Create a task that starts in the next turn. As AbstractEventLoop.create_task.

        Other keyword arguments (`eager_start`) are passed to the running Python's asyncio.
        """
        if self.debugging or kwargs or self._task_factory is not None:
            # A task factory gets the arguments that the caller passed, and no others.
            if name is not ABSENT:
                kwargs["name"] = name
            if context is not ABSENT:
                kwargs["context"] = context
            task = Inherited.create_task(self, coro, **kwargs)
            if self.model.recorder != NULL:
                self.record_task(task, coro, None if name is ABSENT else name)
            return task
        if self.closed:
            self.check_closed()
        return self.start_task(coro, None if name is ABSENT else name,
                               None if context is ABSENT else context)

    cdef object start_task(self, object coro, object name, object context):
        # Looked up each time: a program may have replaced it.
        cdef object cls = task_names["Task"]
        if name is None and context is None and cls is Task:
            if self.loop_option is None:
                self.loop_option = {"loop": self}
            task = PyObject_Call(cls, (coro,), self.loop_option)
        else:
            task = cls(coro, loop=self, name=name, context=context)
        if self.model.recorder != NULL:
            self.record_task(task, coro, name)
        return task

    cdef int record_task(self, object task, object coro, object name) noexcept:
        self.model.recorder.functions.record_task(self.model.recorder, <PyObject *>task,
                                                  <PyObject *>coro, <PyObject *>name)
        return 0

    @cython.binding(False)
    def get_debug(self):
        """Whether debug mode is on."""
        return self.debugging

    def set_debug(self, enabled):
        """Turn debug mode on or off: see "Developing with asyncio" in Python's documentation."""
        self._debug = self.debugging = bool(enabled)
        if self.running:
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)

    def _check_running(self):
        # After fork(2) the child's copy looks as if it were running: report the fork instead.
        if self.abandoned:
            self.model.raise_inherited()
        Inherited._check_running(self)

    def is_closed(self):
        """Whether the loop is closed."""
        return self.closed or self.model is None

    # Turns.

    def turn_until_stopped(self):
        """Run turns until `stop`; one turn if `stop` was called before."""
        self.start_run()
        self.events_left = 0
        # A run of a single turn polls, too.
        self.poll_every_turn()
        try:
            while True:
                try:
                    self.turn_until_error()
                    break
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    if not self.dispatching:
                        # an error of the model
                        raise
                    self.handle_callback_error(error)
                    if self.stopping and not self.events_left:
                        break
        finally:
            self.drop_event()
            self.dispatching = self.stopping = False
            self.events_left = 0
            try:
                self.end_turn()
            finally:
                self.end_run()

    cdef int turn_until_error(self) except -1:
        # No try block, which would cost as much as a callback: an exception ends this method, and
        # turn_until_stopped calls it again for the rest of the turn.
        while True:
            if not self.events_left:
                self.dispatching = False
                self.end_turn()
                self.collect()
                self.events_left = self.queue.count
                if self.model.recorder != NULL and not (
                        self.events_left == 1 and begin_repeated_turn(
                            self.model.recorder,
                            self.timers.count + self.timers.deferred_count)):
                    self.record_turn()
            self.dispatching = True
            self.handle_events()
            if self.stopping:
                return 0

    cdef int end_turn(self) except -1:
        self.turn_number += 1
        if self.deferred_writes or self.corked_end:
            self.deferred_writes = 0
            self.flush_deferred_writes()
            if self.queue.count and not self.model.polls_memory:
                # The next turn may skip its poll.
                self.model.flush_sends()
        return 0

    cdef bint may_defer_write(self) except -1:
        """Whether one more connection may defer a write to the end of the turn.

        Not in a long turn, so that no write waits for many other callbacks.
        """
        cdef int64_t now
        # The clock costs as much as the rest of this method: it is read for every fourth write.
        if not self.deferred_writes & 3:
            now = self.model.tick()
            if not self.deferred_writes:
                self.deferring_since = now
            elif now != self.deferring_since or self.deferred_writes >= MAX_DEFERRED_WRITES:
                self.deferred_writes = 0
                self.flush_deferred_writes()
                self.model.flush_sends()
                return False
        self.deferred_writes += 1
        return True

    cdef int flush_deferred_writes(self) except -1:
        cdef Stream stream
        while self.corked_first < self.corked_end:
            # If one fails, the others stay in the list.
            stream = <Stream>PyList_GET_ITEM(self.corked, self.corked_first)
            replace_item(self.corked, self.corked_first, None)
            self.corked_first += 1
            stream.flush_at_turn_end()
        self.corked_first = self.corked_end = 0
        return 0

    cdef bint cork(self, object stream) noexcept:
        """Have the stream flushed at the end of the turn; return False if the list is full."""
        if self.corked_end == MAX_DEFERRED_WRITES:
            return False
        replace_item(self.corked, self.corked_end, stream)
        self.corked_end += 1
        return True

    cdef int handle_callback_error(self, object error) except -1:
        cdef Target target = <Target>self.event.target
        if self.model.recorder != NULL:
            self.record_exception(error)
        if not target.handle_error(error):
            self.report(error)
        return 0

    def stop(self):
        """Stop run_forever after this turn."""
        self.stopping = True
        if self.asleep:
            self.model.wake()

    def check_closed(self):
        if self.closed:
            raise RuntimeError("Event loop is closed")

    cdef int handle_events(self) except -1:
        if self.debugging:
            return self.handle_debugged()
        if self.model.recorder != NULL:
            return self.handle_recorded()
        return self.handle_all()

    @cython.final
    cdef int handle_debugged(self) except -1:
        # As handle_all, with a warning of each callback that takes long.
        cdef int64_t before
        cdef Target target
        self.drop_event()
        while self.events_left and self.queue.take(&self.event):
            self.events_left -= 1
            target = <Target>self.event.target
            if self.model.recorder != NULL:
                self.record_debug_begin(target)
            callback = args = None
            if isinstance(target, Handle):
                callback = (<Handle>target).callback
                args = (<Handle>target).args_tuple()
            before = monotonic_ns()
            target.handle(&self.event)
            self.warn_if_slow(target, callback, args, (monotonic_ns() - before) / 1e9)
            Py_DECREF(target)
        self.event.target = NULL
        self.events_left = 0
        return 0

    @cython.final
    cdef int handle_all(self) except -1:
        # As Loop.handle_events, but reuses each handle that has no other reference.
        cdef PyObject *target
        cdef Queue queue = self.queue
        self.drop_event()
        while self.events_left and queue_take(queue, &self.event):
            self.events_left -= 1
            target = self.event.target
            (<Target>target).handle(&self.event)
            if self.spare_handle_count < MAX_SPARE_HANDLES \
                    and is_reusable(target, <PyObject *>Handle):
                self.spare_handles[self.spare_handle_count] = target
                self.spare_handle_count += 1
            else:
                Py_DECREF(<object>target)
        self.event.target = NULL
        self.events_left = 0
        return 0

    @cython.final
    cdef int handle_recorded(self) except -1:
        # As handle_all, with a record of each event. A handler may detach the recorder.
        cdef PyObject *target
        cdef Queue queue = self.queue
        cdef Ring *ring
        self.drop_event()
        while self.events_left and queue_take(queue, &self.event):
            self.events_left -= 1
            target = self.event.target
            ring = self.model.recorder
            if ring != NULL and not (
                    type_of(target) == <PyObject *>Handle and record_repeated(
                        ring, <PyObject *>(<Handle>target).callback, queue.head + queue.count)):
                (<Target>target).record_begin(&self.event, ring, queue.head + queue.count)
            (<Target>target).handle(&self.event)
            if self.spare_handle_count < MAX_SPARE_HANDLES \
                    and is_reusable(target, <PyObject *>Handle):
                self.spare_handles[self.spare_handle_count] = target
                self.spare_handle_count += 1
            else:
                Py_DECREF(<object>target)
        self.event.target = NULL
        self.events_left = 0
        return 0

    cdef int record_debug_begin(self, Target target) noexcept:
        # In debug mode the callback is in a handle of asyncio.
        cdef Handle call
        cdef object inner
        cdef uint64_t tail = self.queue.head + self.queue.count
        if isinstance(target, Handle):
            call = <Handle>target
            if call.callback is run_asyncio_handle:
                try:
                    inner = call.args[0]._callback
                except Exception:
                    inner = None
                if inner is not None:
                    record_call(self.model.recorder, <PyObject *>inner, NULL, tail,
                                RecordKind.TIMER_CALL if type(target) is Timer
                                else RecordKind.CALL)
                    return 0
        target.record_begin(&self.event, self.model.recorder, tail)
        return 0

    def warn_if_slow(self, target, callback, args, double seconds):
        if seconds < self.slow_callback_duration:
            return
        if callback is run_asyncio_handle:
            what = format_handle(args[0])
        else:
            what = repr(target) if callback is None else format_callback_source(callback, args)
        logger.warning("Executing %s took %.3f seconds", what, seconds)

    cdef int report(self, object error) except -1:
        cdef Target target = <Target>self.event.target
        cdef Handle handle
        if isinstance(target, Handle):
            handle = <Handle>target
            try:
                source = format_callback_source(handle.callback, handle.args_tuple())
                self.report_exception(f"Exception in callback {source}", error, {"handle": handle})
            finally:
                handle.clear()
                if type(handle) is ThreadSafeHandle:
                    (<ThreadSafeHandle>handle).finish()
            return 0
        return self.report_exception(f"Exception in callback of {target!r}", error, {})

    cdef int report_exception(self, str message, object error, dict more) except -1:
        context = {"message": message, "exception": error}
        context.update(more)
        self.call_exception_handler(context)
        return 0

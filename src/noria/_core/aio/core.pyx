"""asyncio's scheduling on noria's wheel: call_soon, timers, tasks, readers and writers.

Mixed with asyncio's own event loop class, which brings everything that runs once for a connection,
a process or a signal. In debug mode handles are asyncio's own, as they remember where they came
from; otherwise they are compiled.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsDouble
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from cpython.version cimport PY_VERSION_HEX
from libc.stdint cimport int64_t
from libc.string cimport memset

from noria._core.aio.descriptor cimport Descriptor, receive_now
from noria._core.contract cimport CALL, READABLE, WRITABLE, Target
from noria._core.loop cimport Loop
from noria._core.stream cimport Stream
from noria._core.sys cimport MSG_DONTWAIT, MSG_NOSIGNAL, c_send, monotonic_ns, ssize_t
from noria._core.timers cimport (
    Handle, ThreadSafeHandle, Timer, current_context, nanoseconds, new_timer,
)

import asyncio
import socket
from asyncio import base_events, events, format_helpers, tasks
from asyncio.log import logger

from noria._core.aio.descriptor import run_own as run_own_

# Whether a handle that has run may be used again: the loop took it out of the queue with a counted
# reference, and that is the only one. The interpreter's uncounted references (Python 3.14) each
# need a counted one besides, as stream.pyx says of messages.
cdef extern from *:
    """
    static inline int noria_spare(PyObject *o, PyObject *type) {
    #ifdef Py_GIL_DISABLED
        return 0;   /* without the GIL a count of one proves nothing */
    #else
        return Py_TYPE(o) == (PyTypeObject *)type && Py_REFCNT(o) == 1
            && *(PyObject **)((char *)o + Py_TYPE(o)->tp_weaklistoffset) == NULL;
    #endif
    }
    """
    bint spare "noria_spare"(PyObject *o, PyObject *exact_type)


def plain_source(callback, args):
    """Text for a callback, on a Python that does not have asyncio's own function for that."""
    return repr(callback)


cdef object Inherited = asyncio.SelectorEventLoop
cdef object Socket = socket.socket
cdef object Future = asyncio.Future
cdef object run_own = run_own_
cdef object describe = getattr(base_events, "_format_handle", repr)
cdef object source_of = getattr(format_helpers, "_format_callback_source", plain_source)
cdef object ABSENT = object()       # an argument that was not given

# Whether other threads wait in `cancel` for a callback of call_soon_threadsafe that runs. Before
# Python 3.14 asyncio's do not, and a callback may there wait for the thread that cancels it.
cdef bint BLOCKING_CANCEL = PY_VERSION_HEX >= 0x030E0000
cdef object DebugThreadSafeHandle = getattr(events, "_ThreadSafeHandle", asyncio.Handle)


cdef class Core(Loop):
    """What of an asyncio event loop runs often."""

    def __cinit__(self, *args, **kwargs):
        self.descriptors = {}
        self.corked = []
        self.turns = 1

    def __dealloc__(self):
        PyMem_RawFree(self.fd_transports)
        while self.spares:
            self.spares -= 1
            Py_DECREF(<object>self.spare_handles[self.spares])

    # Calls.

    cdef Handle later(self, object callback, tuple args, object context):
        cdef Handle handle
        if self.spares:
            self.spares -= 1
            handle = <Handle>self.spare_handles[self.spares]
            Py_DECREF(handle)       # the array's own
            handle.dropped = False
        else:
            handle = Handle.__new__(Handle)
        handle.callback = callback
        handle.args = args
        handle.context = current_context() if context is None else context
        return handle

    @cython.binding(False)
    def call_soon(self, callback, *args, context=None):
        """Calls at the end of the queue; returns a handle. As AbstractEventLoop.call_soon."""
        cdef Handle handle
        if self.closed:
            self.check_closed()
        if self.debugging:
            self._check_thread()
            self._check_callback(callback, "call_soon")
            return self.debug_call(callback, args, context)
        handle = self.later(callback, args, context)
        self.queue.put(handle, CALL, 0, NULL)
        return handle

    @cython.binding(False)
    def call_soon_threadsafe(self, callback, *args, context=None):
        """Call from any thread or signal handler: a loop that sleeps is woken.

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
                handle = self.later(callback, args, context)
            self.queue.put(handle, CALL, 0, NULL)
            result = handle
        # Whoever runs sees the queue before it sleeps, as both hold the GIL meanwhile.
        if self.asleep:
            self.model.wake()
        return result

    @cython.binding(False)
    def call_later(self, delay, callback, *args, context=None):
        """Calls after `delay` seconds. As AbstractEventLoop.call_later.

        A delay of a second or more begins at the end of the turn, or 20 ms later at most.
        """
        cdef double seconds
        cdef Timer timer
        if delay is None:
            raise TypeError("delay must not be None")
        seconds = PyLong_AsDouble(delay) if type(delay) is int else delay   # without a new float
        if seconds >= 1 and self.dispatching \
                and not (self.debugging or self.closed or self.clocked):
            timer = new_timer()
            timer.callback = callback
            timer.args = args
            timer.context = current_context() if context is None else context
            self.timers.add_deferred(timer, seconds)
            return timer
        seconds += self.now() / 1e9
        if self.debugging or self.closed:
            return self.debug_timer(seconds, callback, args, context)
        return self.set_timer(seconds, callback, args,
                              current_context() if context is None else context)

    @cython.binding(False)
    def call_at(self, when, callback, *args, context=None):
        """Calls at `when`, in seconds of `time()`. As AbstractEventLoop.call_at."""
        if when is None:
            raise TypeError("when cannot be None")
        if self.debugging or self.closed:
            return self.debug_timer(when, callback, args, context)
        return self.set_timer(when, callback, args,
                              current_context() if context is None else context)

    cdef int64_t now(self) except? -1:
        if self.clocked:
            return nanoseconds(self.time())
        return self.model.now()

    def use_clock(self, bint replaced):
        """Run timers by `self.time()`, or by the model's clock again."""
        if self.timers.deferred_count:
            self.timers.arm_deferred()
        self.clocked = replaced

    def debug_call(self, callback, args, context):
        # Compiled code has no frames: the traceback of where it was made ends with the caller.
        handle = asyncio.Handle(callback, args, self, context)
        self._add_callback(handle)
        return handle

    def debug_threadsafe_call(self, callback, args, context):
        handle = DebugThreadSafeHandle(callback, args, self, context)
        if DebugThreadSafeHandle is not asyncio.Handle and handle._source_traceback:
            del handle._source_traceback[-1]    # the frame of its own __init__
        self._add_callback(handle)
        return handle

    def debug_timer(self, double when, callback, args, context):
        if self.closed:
            self.check_closed()
        self._check_thread()
        self._check_callback(callback, "call_at")
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.set_timer(when, run_own, (handle,), None)
        return handle

    def _timer_handle_cancelled(self, handle):
        pass    # one of debug mode: it runs to its time and does nothing then

    def _add_callback(self, handle):
        cdef Handle call = Handle.__new__(Handle)
        call.callback = run_own
        call.args = (handle,)
        self.queue.put(call, CALL, 0, NULL)

    def _add_callback_signalsafe(self, handle):
        self._add_callback(handle)
        if self.asleep:
            self.model.wake()

    @cython.binding(False)
    def create_future(self):
        """A future of this loop."""
        return Future(loop=self)

    @cython.binding(False)
    def create_task(self, coro, *, name=ABSENT, context=ABSENT, **kwargs):
        """Create a task that begins in the next turn. As AbstractEventLoop.create_task.

        Other keyword arguments (`eager_start`) are those of the running Python's asyncio.
        """
        if self.debugging or kwargs or self._task_factory is not None:
            # A task factory is passed what was given, and no more.
            if name is not ABSENT:
                kwargs["name"] = name
            if context is not ABSENT:
                kwargs["context"] = context
            return Inherited.create_task(self, coro, **kwargs)
        if self.closed:
            self.check_closed()
        return tasks.Task(coro, loop=self, name=None if name is ABSENT else name,
                          context=None if context is ABSENT else context)

    def get_debug(self):
        """Whether debug mode is on."""
        return self.debugging

    def set_debug(self, enabled):
        """Turns debug mode on or off: see asyncio's 'Developing with asyncio'."""
        self._debug = self.debugging = bool(enabled)
        if self.running:
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)

    def _check_running(self):
        # Before it says that it runs already, which in a fork's child is its parent's doing.
        if self.abandoned:
            self.model.raise_inherited()
        Inherited._check_running(self)

    def is_closed(self):
        """True after close."""
        return self.closed or self.model is None

    # The wheel.

    def turn_until_stopped(self):
        """Turns until `stop`; a stop before it began ends it after one turn."""
        self.start_run()
        self.events_left = 0
        self.poll_every_turn()      # even a run of one turn looks at the kernel
        try:
            while True:
                try:
                    self.turn_until_error()
                    break
                except (KeyboardInterrupt, SystemExit):
                    raise
                except BaseException as error:
                    if not self.dispatching:
                        raise       # the model's own
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
        # No try in here, which would cost as much as a callback: a fault ends this, and
        # turn_until_stopped begins it anew, with what is left of that turn.
        while True:
            if not self.events_left:
                self.dispatching = False
                self.end_turn()
                self.collect()
                self.events_left = self.queue.count
            self.dispatching = True
            self.handle_events()
            if self.stopping:
                return 0

    cdef int end_turn(self) except -1:
        self.turns += 1
        if self.deferred_writes or self.corked:
            self.deferred_writes = 0
            self.flush_deferred_writes()
            if self.queue.count and not self.model.polls_memory:
                self.model.flush_sends()    # the next turn may go without a poll
        return 0

    cdef bint may_defer_write(self) except -1:
        """Whether one more connection may hold what it writes until the end of the turn.

        Not when that has become long: nobody's answer waits for many others' work.
        """
        cdef int64_t now
        if not self.deferred_writes & 3:    # the clock costs as much as all the rest
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
        self.corked.reverse()
        while self.corked:
            stream = <Stream>self.corked.pop()      # one that fails leaves the others in the list
            stream.flush_at_turn_end()
        return 0

    cdef int handle_callback_error(self, object error) except -1:
        cdef Target target = <Target>self.event.target
        if not target.handle_error(error):
            self.report(error)
        return 0

    def stop(self):
        """Ends run_forever after this turn."""
        self.stopping = True
        if self.asleep:
            self.model.wake()

    def check_closed(self):
        if self.closed:
            raise RuntimeError("Event loop is closed")

    def close_core(self):
        """Ends the model; nothing may be called afterwards."""
        cdef Descriptor descriptor
        Loop.close(self)
        for descriptor in self.descriptors.values():
            descriptor.clear()
        self.descriptors.clear()

    cdef int handle_events(self) except -1:
        cdef int64_t before
        cdef Target target
        if not self.debugging:
            return self.handle_all()
        self.drop_event()
        while self.events_left and self.queue.take(&self.event):
            self.events_left -= 1
            target = <Target>self.event.target
            callback = args = None
            if isinstance(target, Handle):
                callback = (<Handle>target).callback
                args = (<Handle>target).args
            before = monotonic_ns()
            target.handle(&self.event)
            self.slow(target, callback, args, (monotonic_ns() - before) / 1e9)
            Py_DECREF(target)
        self.event.target = NULL
        self.events_left = 0
        return 0

    @cython.final
    cdef int handle_all(self) except -1:
        # As Loop.handle_events, but a handle that nobody kept is used again.
        cdef PyObject *target
        self.drop_event()
        while self.events_left and self.queue.take(&self.event):
            self.events_left -= 1
            target = self.event.target
            (<Target>target).handle(&self.event)
            if self.spares < SPARES and spare(target, <PyObject *>Handle):
                self.spare_handles[self.spares] = target
                self.spares += 1
            else:
                Py_DECREF(<object>target)
        self.event.target = NULL
        self.events_left = 0
        return 0

    def slow(self, target, callback, args, double seconds):
        if seconds < self.slow_callback_duration:
            return
        if callback is run_own:
            what = describe(args[0])
        else:
            what = repr(target) if callback is None else source_of(callback, args)
        logger.warning("Executing %s took %.3f seconds", what, seconds)

    cdef int report(self, object error) except -1:
        cdef Target target = <Target>self.event.target
        cdef Handle handle
        if isinstance(target, Handle):
            handle = <Handle>target
            try:
                source = source_of(handle.callback, handle.args)
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

    cdef int connect_protocol(self, object protocol, object transport) except -1:
        """connection_made; what it raises is reported and the connection stays, as in asyncio."""
        try:
            protocol.connection_made(transport)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.report_exception(f"Exception in callback {protocol!r}.connection_made", error,
                                  {"transport": transport, "protocol": protocol})
        return 0

    cdef int notify_flow_control(self, object protocol, object transport, bint full) except -1:
        """pause_writing or resume_writing; what it raises is reported, as in asyncio."""
        try:
            if full:
                protocol.pause_writing()
            else:
                protocol.resume_writing()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.report_exception(f"protocol.{'pause' if full else 'resume'}_writing() failed",
                                  error, {"transport": transport, "protocol": protocol})
        return 0

    # Readers and writers.

    def add_reader(self, fd, callback, *args):
        """Calls while the descriptor can be read. As AbstractEventLoop.add_reader."""
        self._ensure_fd_no_transport(fd)
        self.watch_fd(fd, READABLE, callback, args, None)

    def add_writer(self, fd, callback, *args):
        """Calls while the descriptor can be written to. As AbstractEventLoop.add_writer."""
        self._ensure_fd_no_transport(fd)
        self.watch_fd(fd, WRITABLE, callback, args, None)

    def remove_reader(self, fd):
        """Undoes add_reader; False if there is none. As AbstractEventLoop.remove_reader."""
        self._ensure_fd_no_transport(fd)
        return self.unwatch_fd(fd, READABLE)

    def remove_writer(self, fd):
        """Undoes add_writer; False if there is none. As AbstractEventLoop.remove_writer."""
        self._ensure_fd_no_transport(fd)
        return self.unwatch_fd(fd, WRITABLE)

    # asyncio's own transports, of pipes and others, call these.

    def _add_reader(self, fd, callback, *args, context=None):
        return self.watch_fd(fd, READABLE, callback, args, context)

    def _add_writer(self, fd, callback, *args, context=None):
        return self.watch_fd(fd, WRITABLE, callback, args, context)

    def _remove_reader(self, fd):
        return self.unwatch_fd(fd, READABLE)

    def _remove_writer(self, fd):
        return self.unwatch_fd(fd, WRITABLE)

    def watch_fd(self, fileobj, int interest, callback, tuple args, context):
        cdef int fd = number_of(fileobj)
        cdef Descriptor descriptor
        if self.closed:
            self.check_closed()
        handle = asyncio.Handle(callback, args, self, context) if self.debugging else \
            self.later(callback, args, context)
        descriptor = self.descriptor(fd)
        try:
            descriptor.add(interest, handle)
        except BaseException:
            if not descriptor.watched:
                del self.descriptors[fd]
            raise
        if descriptor.fileobj is None and not isinstance(fileobj, int):
            descriptor.fileobj = fileobj
        return handle

    cdef Descriptor descriptor(self, int fd):
        cdef Descriptor descriptor = self.descriptors.get(fd)
        if descriptor is None:
            descriptor = Descriptor.__new__(Descriptor)
            descriptor.fd = fd
            descriptor.level_triggered = True
            descriptor.core = self
            descriptor.model = self.model
            descriptor.lasting = self.model.close_unwatches
            self.descriptors[fd] = descriptor
        return descriptor

    def unwatch_fd(self, fileobj, int interest):
        cdef int fd
        cdef bint removed
        cdef Descriptor descriptor
        if self.closed:
            return False
        try:
            fd = number_of(fileobj)
        except ValueError:
            fd = self.registered_number(fileobj)
            if fd < 0:
                raise
        descriptor = self.descriptors.get(fd)
        if descriptor is None:
            return False
        removed = descriptor.remove(interest)
        # The kernel may have dropped the other interest of a descriptor that was closed.
        if not descriptor.watched and descriptor.reader is None and descriptor.writer is None:
            del self.descriptors[fd]
        return removed

    cdef int registered_number(self, object fileobj) except? -1:
        """The number by which the object was registered before it was closed, or -1."""
        cdef Descriptor descriptor
        for descriptor in self.descriptors.values():
            if descriptor.fileobj is fileobj:
                return descriptor.fd
        return -1

    def discard_descriptor(self, int fd):
        """Forgets a descriptor that the model does not watch any more."""
        self.descriptors.pop(fd, None)

    async def sock_recv(self, sock, n):
        """At most `n` bytes of a non-blocking socket. As AbstractEventLoop.sock_recv."""
        cdef Descriptor descriptor
        cdef Py_ssize_t wanted = n
        cdef int fd
        if type(sock) is not Socket or wanted <= 0 or self.debugging:
            return await self.receive_bytes(sock, n)
        fd = sock.fileno()
        data = receive_now(self.model, fd, wanted)
        if data is not None:
            return data
        self._ensure_fd_no_transport(fd)
        future = Future(loop=self)
        descriptor = self.descriptor(fd)
        descriptor.expect(sock, future, wanted)
        try:
            return await future
        finally:
            if descriptor.receiver is future and not self.closed:
                descriptor.forget_receiver()

    async def sock_sendall(self, sock, data):
        """Sends all of `data`. As AbstractEventLoop.sock_sendall."""
        cdef ssize_t sent
        if type(sock) is not Socket or type(data) is not bytes or self.debugging:
            return await self.send_all(sock, data)
        self.model.counters.sends += 1
        sent = c_send(sock.fileno(), PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
                      MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent == PyBytes_GET_SIZE(data):
            return None
        # What is left, or what went wrong.
        return await self.send_all(sock, memoryview(data)[sent:] if sent > 0 else data)

    def watched(self, int fd):
        """For what add_reader and add_writer watch it: 1 to read, 2 to write; KeyError if not."""
        cdef Descriptor descriptor = self.descriptors[fd]
        return ((1 if descriptor.watched & READABLE else 0)
                | (2 if descriptor.watched & WRITABLE else 0))

    def _ensure_fd_no_transport(self, fd):
        # A file object that is closed already (-1) may be registered still: see neglect.
        cdef object number = fd if isinstance(fd, int) else fileno_of(fd)
        fd_transport = self.fd_transport(number)
        if fd_transport is None and self.has_selector_transports:
            fd_transport = self._transports.get(number)
        if fd_transport is not None and not fd_transport.is_closing():
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {fd_transport!r}")

    cdef object fd_transport(self, int fd):
        if 0 <= fd < self.fd_transports_size and self.fd_transports[fd] != NULL:
            return <object>self.fd_transports[fd]
        return None

    cdef int set_fd_transport(self, int fd, object connection) except -1:
        cdef Py_ssize_t room
        cdef void **fd_transports
        if fd >= self.fd_transports_size:
            room = max(fd + 1, 2 * self.fd_transports_size, 64)
            fd_transports = <void **>PyMem_RawRealloc(self.fd_transports, room * sizeof(void *))
            if fd_transports == NULL:
                raise MemoryError
            memset(&fd_transports[self.fd_transports_size], 0,
                   (room - self.fd_transports_size) * sizeof(void *))
            self.fd_transports = fd_transports
            self.fd_transports_size = room
        self.fd_transports[fd] = NULL if connection is None else <void *>connection
        return 0


cdef int number_of(object fileobj) except -1:
    """The descriptor number of what may be one or have one."""
    cdef object number = fileobj if isinstance(fileobj, int) else fileno_of(fileobj)
    if number < 0:
        raise ValueError(f"Invalid file descriptor: {number}")
    return number


cdef object fileno_of(object fileobj):
    """What the object's fileno() returns; ValueError if it has none."""
    try:
        return int(fileobj.fileno())
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"Invalid file object: {fileobj!r}") from None

"""The contract of models and channels, with what all models share; contract.pxd has the shape."""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.string cimport memset

from noria._core.sys cimport (
    EAGAIN, EBADF, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, O_NONBLOCK, SHUT_WR, accept4, c_close,
    c_connect, c_fsync, c_pread, c_pwrite, c_read, c_shutdown, c_write, coarse_ns, errno,
    monotonic_ns, msghdr, recv, recvfrom, c_send, sendmsg, sockaddr, sockaddr_storage, socklen_t,
)

import os
import signal

from noria._core import catalogue, interpreter
from noria.errors import Unsupported

interpreter.check()

# Large enough for asyncio's customary 256 KiB read, small enough to stay in a core's cache.
SCRATCH_SIZE = 256 * 1024

cdef enum:
    DATAGRAMS = 64          # received of one socket before the others have their turn

cdef Py_ssize_t scratch_size = SCRATCH_SIZE

cdef set live_models = set()     # addresses of this process's models


def close_inherited_models():
    """Runs in the child of a fork, before anything else of it does.

    What a model has of the kernel is shared with the parent: to alter a registration of epoll in
    the child alters the parent's. So the child gives all of it back at once, while the numbers of
    the descriptors are sure to be these, and its models refuse from then on.
    """
    cdef Model model
    cdef bint ran = False
    for address in live_models:
        model = <Model><PyObject *><size_t>address
        if model.closed or model.inherited:
            continue
        model.inherited = True
        if model.dispatcher is not None and model.dispatcher.abandon():
            ran = True
        model.after_fork_in_child()
    if ran:
        # A signal of the child must not be told to a descriptor of the parent.
        try:
            signal.set_wakeup_fd(-1)
        except ValueError:
            pass    # not in the main interpreter


os.register_at_fork(after_in_child=close_inherited_models)


cdef class Target:
    """Something that an event can be for."""

    cdef int handle(self, Event *event) except -1:
        raise NotImplementedError

    cdef bint handle_error(self, object error) except -1:
        """`handle` raised this; true if the target has dealt with it, false to have it logged."""
        return False

    cdef int clear(self) noexcept:
        """It will not be called again: lets go of what it held for that."""
        return 0


cdef class Queue:
    """What happened and was not handled yet, first in first out; grows, never allocates otherwise.

    Every put and take runs under the GIL without calling Python, so any thread may put.
    """

    def __cinit__(self):
        self.mask = 1023
        self.ring = <Event *>PyMem_RawMalloc((self.mask + 1) * sizeof(Event))
        if self.ring == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef Event event
        if self.ring != NULL:
            while self.take(&event):
                Py_XDECREF(event.target)
            PyMem_RawFree(self.ring)

    def __len__(self):
        return self.count

    cdef int put(self, Target target, int kind, int result, void *data) except -1:
        cdef Event *event
        if self.count > self.mask:
            self.grow()
        event = &self.ring[(self.head + self.count) & self.mask]
        Py_INCREF(target)
        event.target = <PyObject *>target
        event.kind = kind
        event.result = result
        event.data = data
        self.count += 1
        return 0

    cdef bint take(self, Event *event) noexcept:
        """The oldest event; its reference to the target passes to the caller."""
        if self.count == 0:
            return False
        event[0] = self.ring[self.head]
        self.head = (self.head + 1) & self.mask
        self.count -= 1
        return True

    cdef int grow(self) except -1:
        cdef size_t i, size = (self.mask + 1) * 2
        cdef Event *ring = <Event *>PyMem_RawMalloc(size * sizeof(Event))
        if ring == NULL:
            raise MemoryError
        for i in range(self.count):
            ring[i] = self.ring[(self.head + i) & self.mask]
        PyMem_RawFree(self.ring)
        self.ring = ring
        self.head = 0
        self.mask = size - 1
        return 0


cdef class Dispatcher:
    """What takes events out of the queue; a model with threads of its own asks it to."""

    cdef int drain(self) except -1:
        raise NotImplementedError

    cdef bint abandon(self) noexcept:
        """The process is a child now: no event may be handled here. Whether it was running."""
        return False


cdef class Channel(Target):
    """A descriptor that a model looks after. Subclasses say what is done with what arrives."""

    def __cinit__(self):
        self.fd = -1
        self.slot = -1

    def fileno(self):
        """The descriptor, -1 once closed."""
        return self.fd

    cdef int handle(self, Event *event) except -1:
        # A model may have seen this event before the channel was closed by an earlier handler.
        return self.model.deliver(self, event)

    cdef bint expects_large(self) noexcept:
        """Whether the next bytes are likely to be many, so that `reserve` has a place for them."""
        return False

    cdef bint reserve(self, char **place, Py_ssize_t *size) except -1:
        """Says where the next bytes should go, if not into the model's own scratch."""
        return False

    cdef int filled(self, Py_ssize_t n) except -1:
        """`n` bytes were put where `reserve` said; 0 at the end, negative when none came."""
        raise NotImplementedError

    cdef int received(self, const char *data, Py_ssize_t n) except -1:
        """Bytes arrived; 0 at the end of the stream."""
        raise NotImplementedError

    cdef int datagram_received(self, const char *data, Py_ssize_t n, void *address,
                               unsigned length) except -1:
        """A datagram arrived."""
        raise NotImplementedError

    cdef int accepted(self, int fd) except -1:
        """A connection arrived; the channel owns `fd` now."""
        raise NotImplementedError

    cdef int writable(self) except -1:
        """There is room to send again."""
        raise NotImplementedError

    cdef int ready(self, int mask) except -1:
        """The descriptor is ready for `mask` of Interest."""
        raise NotImplementedError

    cdef int failed(self, int error) except -1:
        """The kernel refused to receive, accept or watch, with this errno.

        EBADF: the descriptor was closed by its owner, and the model does not watch it any more.
        """
        raise NotImplementedError

    cdef bint sent_all(self, int result) noexcept:
        """What was given to send_later is sent, and nothing else is to be done about it."""
        return False

    cdef int sent_later(self, int result) except -1:
        """The same, for a result that sent_all has not dealt with."""
        raise NotImplementedError

    cdef int released(self) except -1:
        """The model and the kernel are done with the descriptor: it may be closed."""
        return 0


cdef class WakeChannel(Channel):
    """The reading end of the pipe by which other threads and signals end a wait."""

    cdef int handle(self, Event *event) except -1:
        return self.model.deliver(self, event)

    cdef int ready(self, int mask) except -1:
        empty_pipe(self.fd)
        (<WakeableModel>self.model).wake_pending = False
        PyErr_CheckSignals()
        return 0

    cdef int failed(self, int error) except -1:
        raise OSError(error, "the pipe that wakes the loop was closed: threads cannot wake it")


cdef int empty_pipe(int fd) except -1:
    cdef char sink[256]
    while c_read(fd, sink, sizeof(sink)) == sizeof(sink):
        pass
    return 0


cdef class Operation(Target):
    """One request to the kernel that will complete: connect, read, write or fsync.

    `callback(result, error)` is called from the queue: `result` is the number of bytes (the bytes
    themselves for a read), `error` an OSError or None.
    """

    def __init__(self, int kind, int fd, object buffer, Py_ssize_t size, int64_t offset,
                 object callback):
        self.kind = kind
        self.fd = fd
        self.offset = offset
        self.callback = callback
        if kind == PREAD:
            self.buffer_owner = bytearray(size)
            self.buffer = <bytearray>self.buffer_owner
            self.size = size
        elif kind == PWRITE or kind == CONNECT:
            self.buffer_owner = bytes(buffer)
            self.buffer = <bytes>self.buffer_owner
            self.size = len(self.buffer_owner)

    @property
    def done(self):
        """True once the callback has been called or the operation was refused."""
        return not self.pending

    cdef Py_ssize_t perform(self) noexcept nogil:
        """Does it here and now, asleep in the call; the result, or -errno."""
        cdef Py_ssize_t r
        while True:
            if self.kind == PREAD:
                r = c_pread(self.fd, self.buffer, self.size, self.offset)
            elif self.kind == PWRITE:
                r = c_pwrite(self.fd, self.buffer, self.size, self.offset)
            elif self.kind == FSYNC:
                r = c_fsync(self.fd)
            else:
                r = c_connect(self.fd, <sockaddr *>self.buffer, <unsigned>self.size)
            if r >= 0:
                return r
            if errno != EINTR:
                return -errno

    cdef int handle(self, Event *event) except -1:
        return self.finish(event.result)

    cdef int finish(self, Py_ssize_t result) except -1:
        cdef object callback = self.callback
        cdef object value = None
        cdef object error = None
        self.pending = False
        self.callback = None
        if result < 0:
            error = OSError(-result, os.strerror(-result))
        elif self.kind == PREAD:
            value = bytes((<bytearray>self.buffer_owner)[:result])
        else:
            value = result
        self.buffer_owner = None
        cleanup, self.cleanup = self.cleanup, None
        if self.cancelled:
            if cleanup is not None:
                cleanup()
        elif callback is not None:
            callback(value, error)
        return 0


cdef class Model:
    """One way of doing I/O. Subclasses say how to wait and how events come about."""

    def __cinit__(self, *args, **kwargs):
        self.queue = Queue()
        self.creator_pid = os.getpid()
        live_models.add(<size_t><PyObject *>self)
        memset(&self.counters, 0, sizeof(Counters))
        memset(&self.timestamps, 0, sizeof(Timestamps))
        self.scratch = <char *>PyMem_RawMalloc(SCRATCH_SIZE)
        if self.scratch == NULL:
            raise MemoryError
        # glibc maps blocks above a threshold afresh each time, at a page fault for every 4 KiB; the
        # first such block to be freed raises the threshold to its size (mallopt(3)). Large
        # messages are worth that.
        PyMem_RawFree(PyMem_RawMalloc(4 * SCRATCH_SIZE))

    def __dealloc__(self):
        live_models.discard(<size_t><PyObject *>self)
        PyMem_RawFree(self.scratch)

    def __repr__(self):
        return f"<noria model {self.name!r}{' closed' if self.closed else ''}>"

    # What a channel may ask for.

    cdef int watch(self, Channel channel, int interest) except -1:
        """Begins to look for `interest` (any of Interest) on the channel, in addition."""
        raise NotImplementedError

    cdef int unwatch(self, Channel channel, int interest) except -1:
        """Stops looking. What was on its way may still come."""
        raise NotImplementedError

    cdef bint recv_in_flight(self, Channel channel) noexcept:
        """Whether bytes may be on their way to the channel even if it is not watched."""
        return True

    cdef int release(self, Channel channel) except -1:
        """The owner is done; `released` is called when the kernel is too, here or later."""
        channel.releasing = True
        if channel.watched:
            self.unwatch(channel, channel.watched)
        return channel.released()

    cdef int deliver(self, Channel channel, Event *event) except -1:
        """An event came out of the queue: turns it into one of the channel's upcalls."""
        raise NotImplementedError

    cdef bint receive_datagrams(self, Channel channel) except -1:
        """Receives what there is, up to a number; whether there may be more."""
        cdef sockaddr_storage address
        cdef socklen_t length
        cdef Py_ssize_t n
        cdef int _left
        for _left in range(DATAGRAMS):
            length = sizeof(address)
            self.counters.receives += 1
            n = recvfrom(channel.fd, self.scratch, scratch_size, MSG_DONTWAIT,
                         <sockaddr *>&address, &length)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    self.counters.empty_receives += 1
                    return False
                if errno == EBADF:      # closed by its owner: it would be so each time
                    self.unwatch(channel, channel.watched)
                    channel.failed(EBADF)
                    return False
                channel.failed(errno)   # of one datagram: ECONNREFUSED of an earlier send
            else:
                self.counters.messages += 1
                self.counters.bytes_in += n
                channel.datagram_received(self.scratch, n, &address, length)
            if not channel.watched & RECEIVE or self.inherited:
                return False
        return True

    cdef Py_ssize_t send(self, Channel channel, const char *data, Py_ssize_t n) except? -1:
        """Sends now what there is room for; the number of bytes, or -errno."""
        cdef Py_ssize_t r
        while True:
            self.counters.sends += 1
            r = self.kernel_send(channel.fd, data, n)
            if r != -EINTR:
                return self.count_send(r)

    cdef Py_ssize_t send_many(self, Channel channel, void *message) except? -1:
        """The same for a struct msghdr: several buffers."""
        cdef Py_ssize_t r
        while True:
            self.counters.sends += 1
            r = self.kernel_send_many(channel.fd, message)
            if r != -EINTR:
                return self.count_send(r)

    cdef bint send_later(self, Channel channel, const char *data, Py_ssize_t n) except -1:
        """Sends with the next wait, in one call for all channels, what there is room for then.

        The channel keeps the data until it is told the result. False where the model cannot.
        """
        return False

    cdef int flush_sends(self) except -1:
        """What was given to send_later is sent now."""
        return 0

    @cython.final
    cdef Py_ssize_t count_send(self, Py_ssize_t r) noexcept:
        if r >= 0:
            self.counters.bytes_out += r
        elif r == -EAGAIN:
            self.counters.blocked_sends += 1
        return r

    # What the kernel does. All but a few models take these as they are.

    cdef int64_t now(self) noexcept:
        return monotonic_ns()

    cdef int64_t tick(self) noexcept:
        return coarse_ns()

    cdef Py_ssize_t kernel_receive(self, int fd, char *data, Py_ssize_t n) noexcept:
        cdef Py_ssize_t r = recv(fd, data, n, MSG_DONTWAIT)
        return r if r >= 0 else -errno

    cdef Py_ssize_t kernel_send(self, int fd, const char *data, Py_ssize_t n) noexcept:
        cdef Py_ssize_t r = c_send(fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL)
        return r if r >= 0 else -errno

    cdef Py_ssize_t kernel_send_many(self, int fd, void *message) noexcept:
        cdef Py_ssize_t r = sendmsg(fd, <msghdr *>message, MSG_DONTWAIT | MSG_NOSIGNAL)
        return r if r >= 0 else -errno

    cdef int kernel_accept(self, int fd, int flags) noexcept:
        cdef int r = accept4(fd, NULL, NULL, flags)
        return r if r >= 0 else -errno

    cdef int kernel_end_sending(self, int fd) noexcept:
        self.counters.controls += 1
        return c_shutdown(fd, SHUT_WR)

    cdef int kernel_close(self, int fd) noexcept:
        return c_close(fd)

    cdef int submit(self, Operation operation) except -1:
        """Starts an operation. Here: in a thread, for models whose kernel call would sleep."""
        if self.inherited:
            self.raise_inherited()
        operation.pending = True
        if self.thread_pool is None:
            from concurrent.futures import ThreadPoolExecutor
            self.thread_pool = ThreadPoolExecutor(max_workers=8,
                                                  thread_name_prefix="noria-operation")
        self.thread_pool.submit(perform_in_thread, self, operation)
        return 0

    cdef int cancel(self, Operation operation) except -1:
        """Its callback will not be called; its memory is kept until the kernel is done with it."""
        operation.cancelled = True
        return 0

    # What the loop asks for.

    cdef int wait(self, int64_t timeout) except -1:
        """Sleeps until something happens, at most `timeout` ns (-1: no limit), and queues it."""
        raise NotImplementedError

    cdef int wake(self) except -1:
        """Ends a wait, from any thread."""
        raise NotImplementedError

    cdef int start_run(self) except -1:
        """Called at the start of a run, on the thread that will wait."""
        if self.inherited:
            self.raise_inherited()
        return 0

    cdef int end_run(self) except -1:
        """Called on the thread that waited, at the end of a run: another may call `begin` next."""
        return 0

    cdef int flush_closes(self) except -1:
        """What was released is let go of by the kernel now, not at the next wait."""
        return 0

    cdef int discard(self, Event *event) except -1:
        """An event will not be handled: frees what its `data` owns."""
        return 0

    cdef int tear_down(self) except -1:
        """Gives back what the model holds of the kernel."""
        return 0

    # What a fork does.

    @cython.final
    cdef int raise_inherited(self) except -1:
        """Raises: only the process that made the model may use it."""
        raise RuntimeError(f"this {self.name} loop was made before a fork and belongs to process "
                           f"{self.creator_pid}: make a new loop in the child")

    cdef int after_fork_in_child(self) except -1:
        """Called in the child: closes its copies of the model's descriptors, and no more."""
        return 0

    # What Python may ask for.

    def capability(self, str kind):
        """``"native"``, ``"emulated"`` or ``"none"``; KeyError for an unknown kind."""
        return catalogue.info(self.name).capabilities[kind]

    def require(self, str kind):
        """Raises Unsupported if the model cannot do this."""
        if self.capability(kind) == "none":
            raise Unsupported(catalogue.refusal(self.name, kind))

    def stats(self):
        """The counters as a dict: calls made, calls that found nothing, messages, bytes."""
        return dict(self.counters)

    def last_timestamps(self):
        """(asked, ready, copy_begin, copy_end, asks) of the message being handled, times in ns.

        Only while `recording` is true; 0 stands for a moment that the process cannot see.
        """
        return (self.timestamps.requested, self.timestamps.ready, self.timestamps.copy_begin,
                self.timestamps.copy_end, self.timestamps.empty_polls)

    def interrupt(self):
        """Ends a wait, from any thread."""
        if not self.closed:
            self.wake()

    def wake_fd(self):
        """The descriptor to write a byte to for waking, for signal.set_wakeup_fd; or -1."""
        return -1

    def close(self):
        """Ends the model; a second call does nothing."""
        cdef Event event
        if self.closed:
            return
        self.closed = True
        self.tear_down()
        if self.thread_pool is not None:
            self.thread_pool.shutdown(wait=not self.inherited)  # threads are not inherited
            self.thread_pool = None
        self.dispatcher = None
        while self.queue.take(&event):
            self.discard(&event)
            (<Target>event.target).clear()
            Py_DECREF(<Target>event.target)


def perform_in_thread(Model model, Operation operation):
    """One emulated operation, on a thread of the pool."""
    cdef Py_ssize_t result
    with nogil:
        result = operation.perform()
    if not model.closed:
        model.queue.put(operation, DONE, <int>result, NULL)
        model.wake()


cdef class WakeableModel(Model):
    """A model that is woken through a pipe."""

    cdef int start_run(self) except -1:
        cdef Channel waker
        if self.inherited:
            self.raise_inherited()
        if self.wake_reader is None:
            reader, self.wake_writer = os.pipe2(O_NONBLOCK | os.O_CLOEXEC)
            waker = WakeChannel.__new__(WakeChannel)
            waker.fd = reader
            waker.model = self
            self.wake_reader = waker
        return 0

    cdef int wake(self) except -1:
        if not self.wake_pending and self.wake_reader is not None:
            self.wake_pending = True
            c_write(self.wake_writer, b"\0", 1)
        return 0

    def wake_fd(self):
        return self.wake_writer if self.wake_reader is not None else -1

    cdef int tear_down(self) except -1:
        if self.wake_reader is not None:
            c_close(self.wake_reader.fd)
            c_close(self.wake_writer)
            self.wake_reader.fd = -1
            self.wake_reader.model = None
            self.wake_reader = None
            self.wake_writer = -1
        return 0

    cdef int after_fork_in_child(self) except -1:
        return WakeableModel.tear_down(self)

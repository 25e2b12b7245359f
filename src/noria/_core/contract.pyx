"""The contract between models and channels, and the code that all models share.

contract.pxd declares the classes and has the overview.
"""

cimport cython
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_XDECREF
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from noria._core.message cimport free_spares
from noria._core.recorder.events cimport RecordKind, TAIL_SHIFT
from noria._core.recorder.record cimport (
    Ring, detach_ring, identify_type, record, record_call, record_handler, record_io,
    record_transfer,
)
from noria._core.sys cimport (
    EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR, accept4, c_close,
    c_connect, c_fsync, c_pread, c_pwrite, c_shutdown, coarse_ns, errno,
    monotonic_ns, msghdr, recv, c_send, sendmsg, sockaddr,
)

import os
import signal
import sys

from noria._core.capabilities import capabilities_of
from noria.errors import Unsupported

if hasattr(sys, "_is_gil_enabled") and not sys._is_gil_enabled():
    from noria._core import interpreter

    interpreter.check()

# In bytes. As large as asyncio's reads, and small enough for the cache of a core.
SCRATCH_SIZE = 256 * 1024

cdef enum:
    MAX_OPERATION_THREADS = 8
    EVENT_KIND_MASK = 0xff  # a model may use the bits above

cdef Py_ssize_t scratch_size = SCRATCH_SIZE

# Addresses of the models that exist in this process.
cdef set live_models = set()


def close_inherited_models():
    """Close the models of the parent in the child of a fork, before any other code runs there.

    A model's kernel objects are shared with the parent: changing an epoll registration in the
    child changes the parent's. So the child closes its copies of the descriptors immediately,
    while their numbers still refer to these objects; from then on its models raise RuntimeError.
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
        # A signal that the child gets must not be written to a descriptor of the parent.
        try:
            signal.set_wakeup_fd(-1)
        except ValueError:
            pass    # this is not the main interpreter


os.register_at_fork(after_in_child=close_inherited_models)


cdef class Target:
    """An object that handles events."""

    cdef int handle(self, Event *event) except -1:
        """Handle one event, which has been taken out of the queue."""
        raise NotImplementedError

    cdef bint handle_error(self, object error) except -1:
        """Handle an exception that `handle` raised. Return false to have the loop log it."""
        return False

    cdef int clear(self) noexcept:
        """Drop the references that only a further call of `handle` would need."""
        return 0

    cdef int record_begin(self, Event *event, Ring *ring, uint64_t tail) noexcept:
        """Record that `handle` is about to be called; `tail` is the number of events ever queued.

        Each event that is taken out of the queue has one such record: see events.pxd.
        """
        record_handler(ring, RecordKind.CALL, identify_type(ring, <PyObject *>self), tail,
                       <uint64_t><PyObject *>self)
        return 0


cdef class Queue:
    """Events that have not been handled: a ring buffer, first in, first out.

    It allocates memory only to grow. `put` and `take` hold the GIL and call no Python code, so any
    thread may put events.
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
        return queue_put(self, target, kind, result, data)

    cdef bint take(self, Event *event) noexcept:
        """Remove the oldest event; the caller gets its reference to the target."""
        return queue_take(self, event)

    cdef int grow(self) except -1:
        cdef size_t i, size = (self.mask + 1) * 2
        cdef Event *ring = <Event *>PyMem_RawMalloc(size * sizeof(Event))
        if ring == NULL:
            raise MemoryError
        for i in range(self.count):
            ring[(self.head + i) & (size - 1)] = self.ring[(self.head + i) & self.mask]
        PyMem_RawFree(self.ring)
        self.ring = ring
        self.mask = size - 1
        return 0


cdef class Dispatcher:
    """Takes events out of the queue and has them handled."""

    cdef int drain(self) except -1:
        """Handle the queued events; called by the threads of a model."""
        raise NotImplementedError

    cdef bint abandon(self) noexcept:
        """Stop handling events in the child of a fork; return whether the loop was running."""
        return False


cdef class Channel(Target):
    """A descriptor that a model watches. Subclasses override the upcalls that they need."""

    def __cinit__(self):
        self.fd = -1
        self.slot = -1

    def fileno(self):
        """The descriptor, or -1 after it was closed."""
        return self.fd

    cdef int record_begin(self, Event *event, Ring *ring, uint64_t tail) noexcept:
        record_io(ring, <uint32_t>self.fd | <uint64_t>(event.kind & EVENT_KIND_MASK) << 32
                  | tail << TAIL_SHIFT, self.record_protocol(ring))
        return 0

    cdef uint64_t record_protocol(self, Ring *ring) noexcept:
        return 0    # the id of the type of the channel's protocol, if it has one

    cdef int handle(self, Event *event) except -1:
        # The model checks whether an earlier handler of this turn has closed the channel.
        return self.model.deliver(self, event)

    cdef bint expects_large(self) noexcept:
        """Whether the next receive is likely to be large: `reserve` has a buffer for it."""
        return False

    cdef bint reserve(self, char **place, Py_ssize_t *size) except -1:
        """Provide a buffer for the next receive; return false to use the model's scratch buffer."""
        return False

    cdef int filled(self, Py_ssize_t n) except -1:
        """`n` bytes are in the buffer of `reserve`: 0 at the end of the stream, -1 for an error."""
        raise NotImplementedError

    cdef int received(self, const char *data, Py_ssize_t n) except -1:
        """`n` bytes were received; 0 at the end of the stream."""
        raise NotImplementedError

    cdef int datagram_received(self, const char *data, Py_ssize_t n, void *address,
                               unsigned length) except -1:
        """A datagram was received from a struct sockaddr of `length` bytes."""
        raise NotImplementedError

    cdef int accepted(self, int fd) except -1:
        """A connection was accepted; the channel now owns `fd`."""
        raise NotImplementedError

    cdef int writable(self) except -1:
        """The socket can take more data."""
        raise NotImplementedError

    cdef int ready(self, int mask) except -1:
        """The descriptor is ready for the Interest bits in `mask`."""
        raise NotImplementedError

    cdef int failed(self, int error) except -1:
        """Receiving, accepting or watching failed with this errno.

        EBADF: the owner closed the descriptor, and the model has stopped watching it.
        """
        raise NotImplementedError

    cdef bint sent_all(self, int result) noexcept:
        """A send_later has completed; return true if that finishes the write.

        Called before the completion is queued, so it must not call Python code.
        """
        return False

    cdef int sent_later(self, int result) except -1:
        """A send_later has completed, and sent_all returned false for the result."""
        raise NotImplementedError

    cdef int released(self) except -1:
        """The model and the kernel no longer use the descriptor: it may be closed."""
        return 0


cdef class Operation(Target):
    """A request to the kernel: connect(2), pread(2), pwrite(2) or fsync(2).

    Args:
        kind: CONNECT, PREAD, PWRITE or FSYNC.
        fd: the descriptor.
        buffer: bytes to write, or the struct sockaddr to connect to.
        size: number of bytes to read.
        offset: position in the file.
        callback: ``callback(result, error)`` is called from the queue. `result` is the bytes of a
            PREAD, or the number that the system call returned; `error` is an OSError or None.
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
        """Whether the operation has completed, or was never submitted."""
        return not self.pending

    cdef Py_ssize_t perform(self) noexcept nogil:
        """Make the system call, which may sleep; return its result, or -errno."""
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

    cdef int record_begin(self, Event *event, Ring *ring, uint64_t tail) noexcept:
        record_call(ring, <PyObject *>self.callback, NULL, tail, RecordKind.CALL)
        if self.kind == CONNECT:
            record_transfer(ring, RecordKind.CONNECT, self.fd, event.result)
        else:
            record(ring, RecordKind.FILE_END, <uint64_t><PyObject *>self, event.result)
        return 0

    cdef int handle(self, Event *event) except -1:
        return self.finish(event.result)

    cdef int finish(self, Py_ssize_t result) except -1:
        """Call the callback, or the cleanup if the operation was cancelled."""
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
    """One way of doing I/O. A subclass implements how to wait, and what creates events."""

    def __cinit__(self, *args, **kwargs):
        self.queue = Queue()
        self.creator_pid = os.getpid()
        live_models.add(<size_t><PyObject *>self)
        memset(&self.counters, 0, sizeof(Counters))
        memset(&self.timestamps, 0, sizeof(Timestamps))
        self.scratch = <char *>PyMem_RawMalloc(SCRATCH_SIZE)
        if self.scratch == NULL:
            raise MemoryError
        # glibc maps each block above a threshold with mmap(2), at the cost of a page fault for each
        # 4 KiB. Freeing one such block raises the threshold to its size (mallopt(3)), so that large
        # messages are allocated without mmap.
        PyMem_RawFree(PyMem_RawMalloc(4 * SCRATCH_SIZE))

    def __dealloc__(self):
        live_models.discard(<size_t><PyObject *>self)
        detach_ring(&self.recorder)
        free_spares(&self.spare_messages)
        PyMem_RawFree(self.scratch)

    def __repr__(self):
        return f"<noria model {self.name!r}{' closed' if self.closed else ''}>"

    # For channels.

    cdef int watch(self, Channel channel, int interest) except -1:
        """Watch the channel for more Interest bits."""
        raise NotImplementedError

    cdef int unwatch(self, Channel channel, int interest) except -1:
        """Stop watching for these bits. Data that is already being received may still arrive."""
        raise NotImplementedError

    cdef int unwatch_before_release(self, Channel channel) except -1:
        """Stop watching a channel whose descriptor only noria has.

        `release` closes it within the next turn, so a model may leave it registered until then.
        """
        return self.unwatch(channel, channel.watched)

    cdef bint recv_in_flight(self, Channel channel) noexcept:
        """Whether received bytes may still reach the channel when it is not watched."""
        return True

    cdef int release(self, Channel channel) except -1:
        """Stop using the channel; call its `released` as soon as the kernel has stopped, too."""
        channel.releasing = True
        if channel.watched:
            self.unwatch(channel, channel.watched)
        return channel.released()

    cdef int deliver(self, Channel channel, Event *event) except -1:
        """Turn an event that was taken out of the queue into an upcall of the channel."""
        raise NotImplementedError

    cdef Py_ssize_t send(self, Channel channel, const char *data, Py_ssize_t n) except? -1:
        """Send without waiting; return the number of bytes, or -errno."""
        cdef Py_ssize_t r
        while True:
            self.counters.sends += 1
            r = self.kernel_send(channel.fd, data, n)
            if r != -EINTR:
                return self.count_send(channel.fd, r)

    cdef Py_ssize_t send_many(self, Channel channel, void *message) except? -1:
        """Send several buffers, given as a struct msghdr; return as `send` does."""
        cdef Py_ssize_t r
        while True:
            self.counters.sends += 1
            r = self.kernel_send_many(channel.fd, message)
            if r != -EINTR:
                return self.count_send(channel.fd, r)

    cdef bint send_later(self, Channel channel, const char *data, Py_ssize_t n) except -1:
        """Send with the next wait, in one system call for all channels, without waiting for space.

        The channel keeps the data until `sent_all` or `sent_later` is called with the result.
        Return false if the model cannot do this.
        """
        return False

    cdef int flush_sends(self) except -1:
        """Send the data of all send_later calls now."""
        return 0

    @cython.final
    cdef Py_ssize_t count_send(self, int fd, Py_ssize_t r) noexcept:
        """Count and record the result of a send, and return it."""
        if self.recorder != NULL:
            record_transfer(self.recorder, RecordKind.SEND, fd, r)
        if r >= 0:
            self.counters.bytes_out += r
        elif r == -EAGAIN:
            self.counters.blocked_sends += 1
        return r

    # The kernel's calls. Most models use these implementations.

    cdef int64_t now(self) noexcept:
        """CLOCK_MONOTONIC in ns."""
        return monotonic_ns()

    cdef int64_t tick(self) noexcept:
        """CLOCK_MONOTONIC_COARSE in ns: cheaper, and advances with each tick of the kernel."""
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
        """Start an operation: here in a worker thread, for models without asynchronous files."""
        if self.inherited:
            self.raise_inherited()
        operation.pending = True
        if self.thread_pool is None:
            from concurrent.futures import ThreadPoolExecutor
            self.thread_pool = ThreadPoolExecutor(max_workers=MAX_OPERATION_THREADS,
                                                  thread_name_prefix="noria-operation")
        self.thread_pool.submit(perform_in_thread, self, operation)
        return 0

    cdef int cancel(self, Operation operation) except -1:
        """Drop the callback of an operation; its memory is kept until the kernel has finished."""
        operation.cancelled = True
        return 0

    # For the loop.

    cdef int wait(self, int64_t timeout) except -1:
        """Wait for events for at most `timeout` ns (-1: no limit), and put them into the queue."""
        raise NotImplementedError

    cdef int wake(self) except -1:
        """End a wait. May be called from any thread."""
        raise NotImplementedError

    cdef int start_run(self) except -1:
        """Prepare for a run; called in the thread that will wait."""
        if self.inherited:
            self.raise_inherited()
        return 0

    cdef int end_run(self) except -1:
        """Finish a run; called in the thread that has waited. The next run may be in another."""
        return 0

    cdef int flush_closes(self) except -1:
        """Have the kernel close the released channels now, not during the next wait."""
        return 0

    cdef int discard(self, Event *event) except -1:
        """Free the `data` of an event that will not be handled."""
        return 0

    cdef int tear_down(self) except -1:
        """Close the model's kernel objects."""
        return 0

    # After a fork.

    @cython.final
    cdef int raise_inherited(self) except -1:
        """Raise RuntimeError: a model may be used only in the process that made it."""
        raise RuntimeError(f"this {self.name} loop was made before a fork and belongs to process "
                           f"{self.creator_pid}: make a new loop in the child")

    cdef int after_fork_in_child(self) except -1:
        """Close the child's copies of the model's descriptors, and do nothing else."""
        return 0

    # For Python.

    def capability(self, str kind):
        """``"native"``, ``"emulated"`` or ``"none"``. Raises KeyError for an unknown kind."""
        return capabilities_of(self.name)[kind]

    def require(self, str kind):
        """Raise Unsupported if the model does not have this capability."""
        if self.capability(kind) == "none":
            from noria._core import catalogue

            raise Unsupported(catalogue.refusal(self.name, kind))

    cdef int copy_counters(self, Counters *counters) noexcept:
        counters[0] = self.counters
        return 0

    def stats(self):
        """The counters as a dict; contract.pxd (struct Counters) describes them."""
        cdef Counters counters
        self.copy_counters(&counters)
        return dict(counters)

    def last_timestamps(self):
        """(requested, ready, copy_begin, copy_end, empty_polls) of the message being handled.

        Times in ns, 0 for a moment that the process cannot observe; only while `recording` is
        true.
        """
        return (self.timestamps.requested, self.timestamps.ready, self.timestamps.copy_begin,
                self.timestamps.copy_end, self.timestamps.empty_polls)

    def interrupt(self):
        """End a wait. May be called from any thread."""
        if not self.closed:
            self.wake()

    def wake_fd(self):
        """The descriptor that wakes the model when written to (signal.set_wakeup_fd), or -1."""
        return -1

    def close(self):
        """Close the model and discard the queued events. A second call does nothing."""
        cdef Event event
        if self.closed:
            return
        self.closed = True
        self.tear_down()
        if self.thread_pool is not None:
            self.thread_pool.shutdown(wait=not self.inherited)  # a child has no threads
            self.thread_pool = None
        detach_ring(&self.recorder)
        self.dispatcher = None
        while self.queue.take(&event):
            self.discard(&event)
            (<Target>event.target).clear()
            Py_DECREF(<Target>event.target)


def perform_in_thread(Model model, Operation operation):
    """Perform an operation in a worker thread and queue its completion."""
    cdef Py_ssize_t result
    with nogil:
        result = operation.perform()
    if not model.closed:
        model.queue.put(operation, DONE, <int>result, NULL)
        model.wake()
